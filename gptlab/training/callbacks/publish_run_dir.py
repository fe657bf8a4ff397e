"""Publish a new run folder together with its step-0 checkpoint."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from gptlab.utils import run_dir


class PublishRunDir(Callback):
    """Save the step-0 checkpoint, then rename the staging folder to the run folder.

    A run folder therefore always holds a checkpoint.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        checkpoints = run_dir.staging_dir(self.folder) / "checkpoints"
        trainer.save_checkpoint(checkpoints / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            run_dir.publish_run_dir(self.folder)
        trainer.strategy.barrier("run folder")
