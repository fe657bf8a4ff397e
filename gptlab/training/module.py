"""The LightningModule: the decoder, its loss, its optimizer."""

import math

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import SumMetric

from gptlab.config.schema import OptimConfig
from gptlab.data.dataloader import Batch
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.evaluation.classification import classification_logits, make_metrics
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity
from gptlab.training.fast.compiled_step import CompiledStep
from gptlab.training.optim import learning_rate, make_optimizer, total_norm
from gptlab.utils.device import seed_device
from gptlab.utils.errors import UserError
from gptlab.utils.hashing import derive_seed


class Diverged(UserError):
    """The loss or its gradient is no longer a number."""

    def __init__(self, step: int):
        super().__init__(
            f"the loss or its gradient is not finite at step {step:,}: training diverged; take a "
            "lower optim.lr or a longer optim.warmup_steps"
        )
        self.step = step


class LanguageModel(LightningModule):
    """Next-token prediction.

    Args:
        net: the decoder.
        optim: optimizer and schedule.
        layer_decay: see FinetuneConfig.
        steps: optimizer steps of the whole run, the schedule's length.
        token_bytes: for each token id, the bytes it writes (for bits per byte).
        seed: dropout is drawn from it and the micro-batch's number, not from a history.
        graph: forward and backward pass compiled as one; None: by the net and autograd.
    """

    def __init__(
        self,
        net: GPT,
        optim: OptimConfig,
        steps: int,
        token_bytes: Tensor,
        seed: int,
        graph: CompiledStep | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.optim = optim
        self.layer_decay = layer_decay
        self.steps = steps
        self.seed = seed
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        self.graph = graph
        self.by_graph = False  # whether the gradient at hand is the graph's
        self.gradient_norm = torch.zeros(())
        # The first step whose loss or gradient was not finite; on the device, so that no step
        # waits for it.
        self.register_buffer("bad_step", torch.tensor(-1), persistent=False)
        # Sums, not MeanMetric: that drops values that are not numbers, or else the weights.
        self.validation = nn.ModuleDict(
            {name: SumMetric(nan_strategy="disable") for name in ("nats", "tokens", "bytes")}
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Lightning notes the hook at hand twice a hook, some forty times a step: that need not
        go through nn.Module's search for parameters."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_device(derive_seed(self.seed, batch["number"] + 1, self.global_rank), self.device.type)
        if batch["number"] % self.trainer.accumulate_grad_batches == 0:
            for group in self.trainer.optimizers[0].param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The share of the step's mean loss that this micro-batch has.

        Lightning averages over micro-batches and processes; multiplied by their number, and
        divided by all real targets of the step, each target weighs the same wherever it stands.
        """
        source, target, share = batch["input"], batch["target"], 1 / batch["step_tokens"]
        accumulate = self.trainer.accumulate_grad_batches
        self.by_graph = self.graph is not None and self.graph.fits(source)
        if self.by_graph:  # gradients included
            add = batch["number"] % accumulate > 0
            nats, self.gradient_norm = self.graph(source, target, share, add)
        else:
            nats = self.net(source, target)
        if self.scaled:
            self.note(nats)
        parts = accumulate * self.trainer.world_size
        return {"loss": nats * (parts * share), "nats": nats.detach()}

    def backward(self, loss: Tensor) -> None:
        if not self.by_graph:
            loss.backward()

    def optimizer_zero_grad(self, *_: object) -> None:
        """Lightning calls it between forward and backward pass. Gradients go before the forward
        pass, when their memory is wanted, and a graph has put new ones in their place by now."""

    def on_validation_epoch_start(self) -> None:
        for total in self.validation.values():
            total.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target = batch["target"]
        real = target != IGNORE_INDEX
        nats = self.net(batch["input"], target)
        self.validation["nats"].update(nats)
        self.validation["tokens"].update(real.sum())
        self.validation["bytes"].update(self.token_bytes[target[real]].sum())

    def on_validation_epoch_end(self) -> None:
        """The mean over all targets, whatever the batches' sizes."""
        total = {name: metric.compute().item() for name, metric in self.validation.items()}
        nats = total["nats"] / total["tokens"]
        if not math.isfinite(nats):
            raise Diverged(self.trainer.global_step)
        # For callbacks to monitor; the Meter writes all metrics to the loggers.
        self.log_dict(self.scores(total, nats), logger=False, sync_dist=True)

    def scores(self, total: dict[str, float], nats: float) -> dict[str, float]:
        """What is told of a validation pass: from its sums, and the nats a target."""
        return {
            "valid/loss": nats,
            "valid/perplexity": perplexity(nats),
            "valid/bits_per_byte": bits_per_byte(total["nats"], total["bytes"]),
        }

    def configure_gradient_clipping(self, optimizer: Optimizer, **_: object) -> None:
        """Clips the norm of the whole gradient, and keeps it for the Meter."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not self.by_graph or self.trainer.accumulate_grad_batches > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            self.gradient_norm = total_norm(gradients)
        norm, most = self.gradient_norm, self.optim.grad_clip
        if not self.scaled:
            self.note(norm)
        # On a CPU a look costs nothing, and saves multiplying by 1.
        if most and (self.device.type != "cpu" or norm.item() + 1e-6 > most):
            nn.utils.clip_grads_with_norm_(parameters, most, norm)

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled: then gradients overflow now and then, by design."""
        return self.trainer.precision == "16-mixed"

    def note(self, value: Tensor) -> None:
        """Remembers this step if the value is not finite; on a CPU the run ends here and now,
        before the optimizer has moved a weight."""
        step = self.trainer.global_step + 1
        if self.device.type == "cpu":
            if not math.isfinite(value.item()):
                raise Diverged(step)
            return
        bad = ~torch.isfinite(value.detach()) & (self.bad_step < 0)
        self.bad_step = torch.where(bad, step, self.bad_step)

    def check_finite(self) -> None:
        """Raises Diverged if a step up to now had a loss or gradient that is not finite."""
        if (step := int(self.bad_step)) >= 0:
            raise Diverged(step)

    def configure_optimizers(self) -> dict:
        fused = self.device.type in ("cpu", "cuda") and not self.scaled
        optimizer: Optimizer = make_optimizer(self.net, self.optim, fused, self.layer_decay)
        # The factor is of the group's own rate, which is optim.lr.
        factor = LambdaLR(
            optimizer,
            lambda step: learning_rate(step, self.steps, self.optim) / (self.optim.lr or 1.0),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}


class Classifier(LanguageModel):
    """Trains as a language model does, its one target a message being the class at the last token;
    validates by what is right and wrong."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.metrics = make_metrics(self.net.config.n_classes)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_NxC, labels_N = classification_logits(self.net, batch)
        self.metrics.update(logits_NxC.argmax(dim=1), labels_N)
        self.validation["nats"].update(F.cross_entropy(logits_NxC, labels_N, reduction="sum"))
        self.validation["tokens"].update(torch.tensor(len(labels_N), device=self.device))
        self.validation["bytes"].update(torch.zeros((), device=self.device))  # of no text

    def scores(self, total: dict[str, float], nats: float) -> dict[str, float]:
        found = self.metrics.compute()
        scores = super().scores(total, nats)
        del scores["valid/bits_per_byte"]  # of no text
        return scores | {f"valid/{name}": float(found[name]) for name in ("accuracy", "f1")}
