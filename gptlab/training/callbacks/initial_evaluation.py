"""Evaluate the model before the first training step."""

from lightning.pytorch import LightningModule, Trainer

from gptlab.evaluation.eval_context import Results
from gptlab.evaluation.suites import run_suites
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.run_plan import TrainingSetup


class InitialEvaluation(StepCallback):
    """Run the suites of `eval_before` at step 0; a resumed run keeps their results."""

    def __init__(
        self, setup: TrainingSetup, metrics_logger: MetricsLogger, shutdown: GracefulShutdown
    ):
        self.context, self.suites = setup.evaluation, setup.config.eval_before
        self.metrics_logger, self.shutdown = metrics_logger, shutdown
        self.results: Results = {}

    def state_dict(self) -> Results:
        return self.results

    def load_state_dict(self, state: Results) -> None:
        self.results = dict(state)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.step:
            return
        with self.metrics_logger.timer_paused(), self.shutdown.interruptible():
            self.results = run_suites(self.context, self.suites)
        if self.results:
            self.metrics_logger.log_metrics(trainer, self.results, update_latest=False)
