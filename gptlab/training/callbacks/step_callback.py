"""Define the base class of callbacks that act once per optimizer step."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


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
