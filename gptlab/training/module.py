"""Define the training recipe (LightningModule): loss, clipping, optimizer, validation."""

import math
from typing import TYPE_CHECKING, Any

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
from gptlab.training.optim import learning_rate, make_optimizer, total_norm
from gptlab.utils.device import seed_device
from gptlab.utils.errors import UserError
from gptlab.utils.hashing import derive_seed

if TYPE_CHECKING:
    from gptlab.training.fast.compiled_step import CompiledStep


class TrainingDiverged(UserError):
    """The loss or its gradient is no longer finite."""

    def __init__(self, step: int):
        super().__init__(
            f"the loss or its gradient is not finite at step {step:,}: training diverged; use a "
            "lower optim.lr or a longer optim.warmup_steps"
        )
        self.step = step


class LanguageModel(LightningModule):
    """Train a decoder to predict the next token.

    Args:
        net: the decoder.
        optim_config: optimizer and schedule.
        total_steps: optimizer steps of the whole run, the length of the schedule.
        byte_counts: (V,), UTF-8 bytes of each token id, for bits per byte.
        seed: seeds dropout, together with the micro-batch's number, so that a resumed run draws the
            same masks.
        compiled_step: runs forward and backward pass as one graph if the batch's shape matches.
        layer_decay: see FinetuneConfig.
    """

    def __init__(
        self,
        net: GPT,
        optim_config: OptimConfig,
        total_steps: int,
        byte_counts: Tensor,
        seed: int,
        compiled_step: "CompiledStep | None" = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.optim_config = optim_config
        self.total_steps = total_steps
        self.seed = seed
        self.compiled_step = compiled_step
        self.layer_decay = layer_decay
        self.byte_counts: Tensor
        self.register_buffer("byte_counts", byte_counts, persistent=False)
        self.gradient_norm = torch.zeros(())
        self.gradients_ready = False  # whether compiled_step has run the backward pass already
        # The first step with a non-finite loss or gradient, or -1. It stays on the device, so that
        # no step waits for the GPU.
        self.diverged_step: Tensor
        self.register_buffer("diverged_step", torch.tensor(-1), persistent=False)
        # Not MeanMetric, which either drops non-finite values or ignores their weights.
        self.validation_sums: Any = nn.ModuleDict(
            {name: SumMetric(nan_strategy="disable") for name in ("nats", "tokens", "bytes")}
        )

    # Training, in the order in which Lightning calls the hooks.

    def on_train_start(self) -> None:
        """Set the rates of the first step.

        A checkpoint restores the rates of the schedule it was written with, which is another one
        if the resumed run has been extended.
        """
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR):
                groups, base_lrs = schedule.optimizer.param_groups, schedule.base_lrs
                for group, lr, factor in zip(groups, base_lrs, schedule.lr_lambdas, strict=True):
                    group["lr"] = lr * factor(schedule.last_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed = derive_seed(self.seed, batch["micro_batch"] + 1, self.global_rank)
        seed_device(seed, self.device.type)
        # Free the gradients before the forward pass, which needs their memory.
        if batch["micro_batch"] % self.trainer.accumulate_grad_batches == 0:
            for group in self.trainer.optimizers[0].param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return this micro-batch's share of the step's mean loss.

        Lightning averages over micro-batches and processes. Multiplying by their number and
        dividing by all real targets of the step gives each target the same weight.
        """
        source, target, weight = batch["input"], batch["target"], 1 / batch["step_tokens"]
        micro_batches = self.trainer.accumulate_grad_batches
        compiled = self.compiled_step
        self.gradients_ready = compiled is not None and compiled.matches(source)
        if compiled is not None and self.gradients_ready:
            accumulate = batch["micro_batch"] % micro_batches > 0
            nats, self.gradient_norm = compiled(source, target, weight, accumulate)
        else:
            nats = self.net(source, target)
        if self.uses_loss_scaling:
            self.record_non_finite(nats)
        share = micro_batches * self.trainer.world_size * weight
        return {"loss": nats * share, "nats": nats.detach()}

    def optimizer_zero_grad(self, *_: object) -> None:
        """Do nothing: on_train_batch_start has freed the old gradients, and when Lightning calls
        this, compiled_step may have set the new ones."""

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        if not self.gradients_ready:
            loss.backward()

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip the norm of the whole gradient; keep the unclipped norm for the log."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not self.gradients_ready or self.trainer.accumulate_grad_batches > 1:
            self.gradient_norm = total_norm([p.grad for p in parameters if p.grad is not None])
        norm, max_norm = self.gradient_norm, self.optim_config.grad_clip
        if not self.uses_loss_scaling:
            self.record_non_finite(norm)
        # On a CPU reading the norm is free, and saves a multiplication by 1.
        if max_norm and (self.device.type != "cpu" or norm.item() + 1e-6 > max_norm):
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)

    def configure_optimizers(self) -> Any:
        fused = self.device.type in ("cpu", "cuda") and not self.uses_loss_scaling
        optimizer = make_optimizer(self.net, self.optim_config, fused, self.layer_decay)
        # LambdaLR multiplies each group's own rate: optim.lr, reduced by layer_decay.
        rates, lr = (self.total_steps, self.optim_config), self.optim_config.lr or 1.0
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, *rates) / lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Divergence.

    @property
    def uses_loss_scaling(self) -> bool:
        """Whether the loss is scaled, so that gradients overflow now and then by design."""
        return self.trainer.precision == "16-mixed"

    def record_non_finite(self, value: Tensor) -> None:
        """Remember this step if the value is not finite.

        On a CPU the run ends at once, before the optimizer has changed a weight.
        """
        step = self.trainer.global_step + 1
        if self.device.type == "cpu":
            if not math.isfinite(value.item()):
                raise TrainingDiverged(step)
            return
        diverged = ~torch.isfinite(value.detach()) & (self.diverged_step < 0)
        self.diverged_step = torch.where(diverged, step, self.diverged_step)

    def raise_if_diverged(self) -> None:
        """Raise TrainingDiverged if a step so far had a non-finite loss or gradient."""
        if (step := int(self.diverged_step)) >= 0:
            raise TrainingDiverged(step)

    # Validation.

    def on_validation_epoch_start(self) -> None:
        for total in self.validation_sums.values():
            total.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target = batch["target"]
        real = target != IGNORE_INDEX
        self.validation_sums["nats"].update(self.net(batch["input"], target))
        self.validation_sums["tokens"].update(real.sum())
        self.validation_sums["bytes"].update(self.byte_counts[target[real]].sum())

    def on_validation_epoch_end(self) -> None:
        """Average over all targets, independent of batch sizes."""
        sums = {name: metric.compute().item() for name, metric in self.validation_sums.items()}
        loss = sums["nats"] / sums["tokens"]
        if not math.isfinite(loss):
            raise TrainingDiverged(self.trainer.global_step)
        # Callbacks can monitor these; MetricsLogger writes them to the loggers.
        self.log_dict(self.validation_metrics(sums, loss), logger=False, sync_dist=True)

    def validation_metrics(self, sums: dict[str, float], loss: float) -> dict[str, float]:
        return {
            "valid/loss": loss,
            "valid/perplexity": perplexity(loss),
            "valid/bits_per_byte": bits_per_byte(sums["nats"], int(sums["bytes"])),
        }


class Classifier(LanguageModel):
    """Train like a language model, with one target per message: its class, at the last token."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        assert self.net.config.n_classes
        self.metrics = make_metrics(self.net.config.n_classes)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_NxC, labels_N = classification_logits(self.net, batch)
        self.metrics.update(logits_NxC.argmax(dim=1), labels_N)
        nats = F.cross_entropy(logits_NxC, labels_N, reduction="sum")
        self.validation_sums["nats"].update(nats)
        self.validation_sums["tokens"].update(torch.tensor(len(labels_N), device=self.device))
        self.validation_sums["bytes"].update(torch.zeros((), device=self.device))  # unused

    def validation_metrics(self, sums: dict[str, float], loss: float) -> dict[str, float]:
        results = self.metrics.compute()
        metrics = super().validation_metrics(sums, loss)
        del metrics["valid/bits_per_byte"]  # a class has no bytes
        return metrics | {f"valid/{name}": float(results[name]) for name in ("accuracy", "f1")}
