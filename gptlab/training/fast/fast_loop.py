"""Lightning's training loop with nothing between the steps that nobody asked for.

A micro-batch goes through some 2,900 Python calls in Lightning's own loop: each hook of each
callback, whether it has one or not, in a profiler's context; closures within closures for the
optimizer; metrics gathered where none was logged. That is a millisecond, a tenth of a small
model's step. Where one process trains on a CPU and nobody listens in between, `ShortLoop` calls
directly what is there to be called, in the same order and with the same bits in the end.
Validation, checkpoints, counters and the way out stay Lightning's, and so does every other case.
"""

import math
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler

from gptlab.data.dataloader import Batch

CALLED_HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
SKIPPED_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward")


def overrides_hook(callback: Callback, hook: str) -> bool:
    """By the class, or, as Lightning's LambdaCallback does, on the instance."""
    return getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook)


def can_run_fast(trainer: Trainer) -> bool:
    """Whether nothing is set that only Lightning's own loop looks after."""
    return (
        trainer.world_size == 1
        and trainer.strategy.root_device.type == "cpu"
        and isinstance(trainer.profiler, PassThroughProfiler)
        and not trainer.lightning_module.scaled
        and trainer.num_training_batches == math.inf
        and trainer.check_val_every_n_epoch is None
        and trainer._val_check_time_interval is None
        and not any(overrides_hook(c, hook) for c in trainer.callbacks for hook in SKIPPED_HOOKS)
    )


class FastLoop(_TrainingEpochLoop):
    """Trains on micro-batches as the loop above it does, in fewer calls."""

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        self.short = can_run_fast(trainer)
        self.module = trainer.lightning_module
        self.hooks = {
            hook: [getattr(c, hook) for c in trainer.callbacks if overrides_hook(c, hook)]
            for hook in CALLED_HOOKS
        }

    @property
    def global_step(self) -> int:
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def call(self, hook: str, *arguments: Any) -> None:
        self.module._current_fx_name = hook  # for a callback that logs
        for listener in self.hooks[hook]:
            listener(self.trainer, self.module, *arguments)

    def advance(self, data_fetcher: Any) -> None:
        """One micro-batch."""
        if self.restarting or not self.short:
            super().advance(data_fetcher)
            self.stepped = not self._should_accumulate()
            return
        module, progress, logged = self.module, self.batch_progress, self._results
        batch, _, _ = next(data_fetcher)
        number = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        progress.increment_ready()
        connector = self.trainer._logger_connector
        connector._first_loop_iter = connector._first_loop_iter is None
        logged.batch, logged.batch_size, logged.dataloader_idx = batch, None, None
        self.call("on_train_batch_start", batch, number)
        module.on_train_batch_start(batch, number)
        progress.increment_started()
        outputs = self.step(batch, number)
        progress.increment_processed()
        self.call("on_train_batch_end", outputs, batch, number)
        module._current_fx_name = None
        if logged:
            connector.on_batch_end()
        logged.batch = None
        progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def step(self, batch: Batch, number: int) -> dict[str, Any]:
        """Forward and backward pass; and optimizer and schedule after a step's last micro-batch."""
        trainer, module = self.trainer, self.module
        outputs = trainer.strategy.training_step(batch, number)
        loss, parts = outputs["loss"], trainer.accumulate_grad_batches
        loss = loss / parts if parts > 1 else loss
        module.backward(loss)
        outputs["loss"] = loss.detach()
        self.stepped = self.batch_progress.current.ready % parts == 0
        if self.stepped:
            (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
            progress = self.automatic_optimization.optim_progress.optimizer
            progress.zero_grad.increment_by(1)
            progress.step.increment_ready()
            self.call("on_before_optimizer_step", optimizer)
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
            progress.step.increment_completed()
            self.scheduler_progress.increment_ready()
            schedule.scheduler.step()
            self.scheduler_progress.increment_completed()
        return outputs

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer = self.trainer
        validate = self.batch_progress.total.ready % trainer.val_check_batch == 0
        ends = trainer.should_stop or trainer.received_sigterm
        if not self.short or validate or ends or self._skip_next_val:
            super().on_advance_end(data_fetcher)
        elif self.stepped:
            self._batches_that_stepped += 1
