"""Base class of the callbacks that act once per optimizer step."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gptlab.training.run_plan import RunPlan


class StepCallback(Callback):
    """Call `on_step` once per optimizer step, after its last micro-batch."""

    step = 0  # optimizer steps done, restored on resume

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (step := trainer.global_step) > self.step:
            self.step = step
            self.on_step(trainer, module, batch)

    def on_step(self, trainer: Trainer, module: Any, batch: Any) -> None:
        """Act after optimizer step `self.step`, counted from 1."""


def completed_epoch(plan: RunPlan, step: int) -> int | None:
    """Return the epoch that this step completes, counted from 1, or None."""
    after = step * plan.shape.sequences_per_step // plan.sequences_per_epoch
    before = (step - 1) * plan.shape.sequences_per_step // plan.sequences_per_epoch
    return after if after > before else None
