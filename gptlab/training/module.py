"""The LightningModule: the decoder, its loss, its optimizer."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from gptlab.config import OptimConfig
from gptlab.data.loader import Batch
from gptlab.data.windows import IGNORED
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity, summed_cross_entropy
from gptlab.seeding import derive
from gptlab.training.optim import learning_rate, make_optimizer


class LanguageModel(LightningModule):
    """Next-token prediction.

    Args:
        net: the decoder.
        optim: optimizer and schedule.
        steps: optimizer steps of the whole run, the schedule's length.
        token_bytes: for each token id, the bytes it writes (for bits per byte).
        seed: dropout is drawn from it and the micro-batch's number, not from a history.
    """

    def __init__(
        self, net: GPT, optim: OptimConfig, steps: int, token_bytes: Tensor, seed: int
    ) -> None:
        super().__init__()
        self.net = net
        self.optim = optim
        self.steps = steps
        self.seed = seed
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        self.gradient_norm = torch.zeros(())
        # A loss that is not a number must show, not be left out of the mean.
        self.validation_nats = MeanMetric(nan_strategy="disable")
        self.validation_bytes = MeanMetric(nan_strategy="disable")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        torch.manual_seed(derive(self.seed, number, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The share of the step's mean loss that this micro-batch has.

        Lightning averages over micro-batches and processes; multiplied by their number, and
        divided by all real targets of the step, each target weighs the same wherever it stands.
        """
        nats = summed_cross_entropy(self.net(batch["input"]), batch["target"])
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return {"loss": nats * (parts / batch["step_tokens"]), "nats": nats.detach()}

    def on_validation_epoch_start(self) -> None:
        self.validation_nats.reset()
        self.validation_bytes.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target = batch["target"]
        real = target != IGNORED
        tokens = real.sum()
        nats = summed_cross_entropy(self.net(batch["input"]), target)
        written = self.token_bytes[target[real]].sum()
        # Weighted by tokens: the mean over all targets, whatever the batches' sizes.
        self.validation_nats.update(nats / tokens.clamp(min=1), tokens)
        self.validation_bytes.update(written / tokens.clamp(min=1), tokens)

    def on_validation_epoch_end(self) -> None:
        nats = self.validation_nats.compute().item()
        bytes_per_token = self.validation_bytes.compute().item()
        scores = {
            "valid/loss": nats,
            "valid/perplexity": perplexity(nats),
            "valid/bits_per_byte": bits_per_byte(nats, bytes_per_token),
        }
        # For callbacks to monitor; the Meter writes all metrics to the loggers.
        self.log_dict(scores, logger=False, sync_dist=True)

    def configure_gradient_clipping(self, optimizer: Optimizer, **_: object) -> None:
        """Clips the norm of the whole gradient, and keeps it for the Meter."""
        most = self.optim.grad_clip or float("inf")
        self.gradient_norm = nn.utils.clip_grad_norm_(self.net.parameters(), most)

    def configure_optimizers(self) -> dict:
        optimizer: Optimizer = make_optimizer(self.net, self.optim)
        # The factor is of the group's own rate, which is optim.lr.
        factor = LambdaLR(
            optimizer,
            lambda step: learning_rate(step, self.steps, self.optim) / (self.optim.lr or 1.0),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
