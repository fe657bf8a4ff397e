"""Run Lightning's training loop in fewer calls. Optional: runs are bit-identical without it.

Lightning's own loop makes about 2,900 Python calls per micro-batch: every hook of every callback,
also empty ones, in a profiler's context; nested closures for the optimizer; metrics collected where
none was logged. That takes a millisecond, a tenth of a small model's step. For one process on a
CPU, FastLoop calls only what has something to do, in the same order. Validation, checkpoints,
counters and the end of the run stay Lightning's, and so does everything in all other cases.
"""

import math
from operator import attrgetter
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler

from gptlab.data.dataloader import Batch

# What FastLoop uses of the Trainer beyond its documented interface.
PRIVATE_NAMES = [
    *("_val_check_time_interval", "_logger_connector._first_loop_iter"),
    *("_logger_connector.on_batch_end", "_logger_connector.update_train_step_metrics"),
]
PRIVATE_LOOP_NAMES = [
    *("_results.batch", "_results.batch_size", "_results.dataloader_idx", "_should_accumulate"),
    *("_skip_next_val", "_batches_that_stepped", "batch_progress.increment_processed"),
    *("automatic_optimization.optim_progress.optimizer.zero_grad.increment_by", "restarting"),
    *("automatic_optimization.optim_progress.optimizer.step.total.completed", "on_advance_end"),
    *("scheduler_progress.increment_ready", "scheduler_progress.increment_completed"),
]
CALLED_HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
SKIPPED_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward")


def overrides_hook(callback: Callback, hook: str) -> bool:
    """Whether the callback's class defines the hook, or, as in LambdaCallback, its instance."""
    return getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook)


def can_run_fast(trainer: Any) -> bool:
    """Whether no setting of the Trainer needs Lightning's own loop."""
    return (
        trainer.world_size == 1
        and trainer.strategy.root_device.type == "cpu"
        and isinstance(trainer.profiler, PassThroughProfiler)
        and not trainer.lightning_module.uses_loss_scaling
        and trainer.num_training_batches == math.inf
        and trainer.check_val_every_n_epoch is None
        and trainer._val_check_time_interval is None
        and not any(overrides_hook(c, hook) for c in trainer.callbacks for hook in SKIPPED_HOOKS)
    )


class FastLoop(_TrainingEpochLoop):
    """Replace `trainer.fit_loop.epoch_loop`.

    Raises AttributeError if this version of Lightning lacks a private name that is used here.
    """

    def __init__(self, trainer: Any, min_steps: int | None, max_steps: int):
        super().__init__(trainer, min_steps, max_steps)
        attrgetter(*PRIVATE_NAMES)(trainer)
        attrgetter(*PRIVATE_LOOP_NAMES)(self)

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        trainer: Any = self.trainer
        self.fast = can_run_fast(trainer)
        self.module: Any = trainer.lightning_module
        self.hooks = {
            hook: [getattr(c, hook) for c in trainer.callbacks if overrides_hook(c, hook)]
            for hook in CALLED_HOOKS
        }

    @property
    def global_step(self) -> int:
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def set_current_hook(self, hook: str | None) -> None:
        """Set the name of the running hook, for callbacks that log.

        Writes to `__dict__`, because nn.Module's setattr searches the parameters.
        """
        self.module.__dict__["_current_fx_name"] = hook

    def call_hook(self, hook: str, *arguments: Any) -> None:
        self.set_current_hook(hook)
        for callback_hook in self.hooks[hook]:
            callback_hook(self.trainer, self.module, *arguments)

    def advance(self, data_fetcher: Any) -> None:
        """Train on one micro-batch."""
        if self.restarting or not self.fast:
            super().advance(data_fetcher)
            self.stepped = not self._should_accumulate()
            return
        module, progress, results = self.module, self.batch_progress, self._results
        batch, _, _ = next(data_fetcher)
        number = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        progress.increment_ready()
        connector = self.trainer._logger_connector
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self.call_hook("on_train_batch_start", batch, number)
        module.on_train_batch_start(batch, number)
        progress.increment_started()
        outputs = self.forward_backward_step(batch, number)
        progress.increment_processed()
        self.call_hook("on_train_batch_end", outputs, batch, number)
        self.set_current_hook(None)
        if results:
            connector.on_batch_end()
        results.batch = None
        progress.increment_completed()
        if results:
            connector.update_train_step_metrics()

    def forward_backward_step(self, batch: Batch, number: int) -> dict[str, Any]:
        """Run forward and backward pass, and after the last micro-batch optimizer and schedule."""
        trainer: Any = self.trainer
        module = self.module
        outputs = trainer.strategy.training_step(batch, number)
        loss, micro_batches = outputs["loss"], trainer.accumulate_grad_batches
        loss = loss / micro_batches if micro_batches > 1 else loss
        module.backward(loss)
        outputs["loss"] = loss.detach()
        self.stepped = self.batch_progress.current.ready % micro_batches == 0
        if self.stepped:
            (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
            progress = self.automatic_optimization.optim_progress.optimizer
            progress.zero_grad.increment_by(1)
            progress.step.increment_ready()
            self.call_hook("on_before_optimizer_step", optimizer)
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
            progress.step.increment_completed()
            self.scheduler_progress.increment_ready()
            schedule.scheduler.step()
            self.scheduler_progress.increment_completed()
        return outputs

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer: Any = self.trainer
        validate = self.batch_progress.total.ready % trainer.val_check_batch == 0
        stopping = trainer.should_stop or trainer.received_sigterm
        if not self.fast or validate or stopping or self._skip_next_val:
            super().on_advance_end(data_fetcher)
        elif self.stepped:
            self._batches_that_stepped += 1
