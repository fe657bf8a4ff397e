"""Start the loggers once the run folder exists."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from gptlab.training.loggers import make_loggers
from gptlab.training.run_plan import TrainingSetup


class StartLoggers(Callback):
    """Replace the Trainer's placeholders by the configured loggers, which create files.

    The other processes of a run keep the placeholders.
    """

    def __init__(self, setup: TrainingSetup, folder: Path):
        self.run_setup, self.folder = setup, folder
        self.started = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.start(trainer)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.started:  # the run was resumed after its last step: only results are logged
            self.start(trainer)

    def start(self, trainer: Trainer) -> None:
        self.started = True
        if trainer.is_global_zero:
            trainer.loggers = make_loggers(self.run_setup, self.folder)
