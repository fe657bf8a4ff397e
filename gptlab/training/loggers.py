"""Make the loggers of a run, and close them; conf/logger has a file for each.

TensorBoard writes into the run folder. The trackers below are Weights & Biases, MLflow and Trackio;
unless the user sets another place, they write into the run folder or next to it, and send nothing.
"""

import contextlib
import html
import importlib.util
import io
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from gptlab.config import sweeps
from gptlab.config.keys import flatten
from gptlab.config.schema import TrainConfig
from gptlab.training.instantiate import import_target, instantiate_target
from gptlab.training.run_plan import TrainingSetup, stored_config
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError
from gptlab.utils.system import shell_quote

ID_FILE = "tracker_id"  # in the run folder: a resumed run has the same id
MLFLOW_DEFAULTS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}


class RunIdentity:
    """How trackers name a run, and where a store of several runs belongs."""

    def __init__(self, save_dir: str):
        folder = Path(save_dir).absolute()
        is_job = (folder.parent / sweeps.SWEEP_FILE).exists()
        self.sweep = folder.parent.name if is_job else None
        self.name = f"{self.sweep}/{folder.name}" if is_job else folder.name
        self.root = folder.parent.parent if is_job else folder.parent
        path = folder / ID_FILE
        self.id = path.read_text(encoding="utf-8") if path.exists() else ""
        self.is_new = not re.fullmatch("[0-9a-f]{16}", self.id)
        if self.is_new:
            self.id = uuid.uuid4().hex[:16]
            path.write_text(self.id, encoding="utf-8")


class Wandb(WandbLogger):
    """Log to Weights & Biases; without an account, into the run folder only."""

    package = "wandb"

    def __init__(self, save_dir: str, offline: bool | None = None, **settings: Any):
        os.environ.setdefault("WANDB_CACHE_DIR", str(Path(save_dir, "wandb")))  # for its logs
        import wandb

        run = RunIdentity(save_dir)
        if offline is None and "WANDB_MODE" not in os.environ:
            offline = not wandb.login(prompt=False, verify=False)  # True if an account is set up
        defaults = {"name": run.name, "id": run.id, "group": run.sweep, "mode": None}
        if offline:
            defaults["mode"] = "offline"
        quiet = wandb.Settings(silent=True, console="off")
        self.is_shared = wandb.run is not None  # the user's own run, or a sweep's of wandb
        super().__init__(save_dir=save_dir, **defaults | {"settings": quiet} | settings)
        self._wandb_init.pop("anonymous", None)  # wandb warns that it is ignored
        if self.experiment.offline:
            place = shell_quote(str(Path(self.experiment.dir).parent))
            print_status(f"wandb: offline; to upload the run: wandb sync {place}")
        elif not self.experiment.disabled:
            print_status(f"wandb: {self.experiment.url}")

    def add_text(self, tag: str, text: str, step: int) -> None:
        import wandb

        page = wandb.Html(f"<pre>{html.escape(text)}</pre>")
        self.experiment.log({tag: page, "trainer/global_step": step})

    def close(self, failed: bool) -> None:
        if not self.is_shared:
            self.experiment.finish(exit_code=int(failed))


class Tracker(Logger):
    """A logger whose store is next to the runs, so that it can compare them."""

    project = run_name = ""

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.run_name


class Mlflow(Tracker):
    """Log to MLflow; Lightning's MLFlowLogger would change the store of the whole process."""

    package = "mlflow"

    def __init__(self, save_dir: str, experiment_name: str, tracking_uri: str | None = None):
        for variable, value in MLFLOW_DEFAULTS.items():  # before its import
            os.environ.setdefault(variable, value)
        run = RunIdentity(save_dir)
        tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if tracking_uri:
            experiment = self.open_experiment(tracking_uri, experiment_name)
        else:
            tracking_uri = f"sqlite:///{(run.root / 'mlflow.db').as_posix()}"
            place, artifacts = shell_quote(tracking_uri), (run.root / "mlflow").as_uri()
            print_status(f"mlflow: to see the runs: mlflow ui --backend-store-uri {place}")
            with FileLock(run.root / ".mlflow.lock"):  # jobs at once must not make it at once
                experiment = self.open_experiment(tracking_uri, experiment_name, artifacts)
        tag, self.project, self.run_name = "gptlab.run_id", experiment_name, run.name
        if same := self.client.search_runs([experiment], f"tags.`{tag}` = '{run.id}'"):
            self.run_id = same[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            made = self.client.create_run(experiment, tags={tag: run.id}, run_name=run.name)
            self.run_id = made.info.run_id

    def open_experiment(self, tracking_uri: str, name: str, artifacts: str | None = None) -> str:
        """Connect to a store; return the id of the experiment in it, which may be new."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.client = self.experiment = MlflowClient(tracking_uri)
        with contextlib.suppress(MlflowException):  # it exists
            self.client.create_experiment(name, artifacts)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            raise MlflowException(f"the experiment {name} cannot be created")
        return str(experiment.experiment_id)

    def log_hyperparams(self, params: Any) -> None:
        """Log the parameters that the run does not have yet: MLflow refuses to change one."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(name, str(value)) for name, value in params.items() if name not in known]
        for start in range(0, len(new), 100):  # its limit
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = [Metric(name, value, now, step or 0) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=points)

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, f"{tag}/step_{step}.txt")

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class Trackio(Tracker):
    """Log to Trackio."""

    package = "trackio"

    def __init__(self, save_dir: str, project: str, **settings: Any):
        run = RunIdentity(save_dir)
        os.environ.setdefault("TRACKIO_DIR", str(run.root / "trackio"))
        import trackio  # reads TRACKIO_DIR when first imported

        place = trackio.utils.TRACKIO_DIR
        print_status(f"trackio: to see the runs: set TRACKIO_DIR={place} and type trackio show")
        resume = "never" if run.is_new else "allow"
        settings = {"group": run.sweep, "resume": resume, "embed": False} | settings
        with contextlib.redirect_stdout(io.StringIO()):
            self.experiment = trackio.init(project, run.name, **settings)
        self.project, self.run_name = project, self.experiment.name

    def log_hyperparams(self, params: Any) -> None:
        self.experiment.config.update(params)  # sent with the first metrics

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        import trackio

        self.experiment.log({tag: trackio.Markdown(f"```text\n{text}\n```")}, step=step)

    def close(self, failed: bool) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


def check_loggers(config: TrainConfig) -> None:
    """Raise UserError for a logger whose class or package is missing."""
    for name, settings in config.logger.items():
        target = import_target(name, settings, Logger).func
        package = getattr(target, "package", None)
        if package and not importlib.util.find_spec(package):
            raise UserError(f'logger={name} needs {package}: pip install "gptlab[{package}]"')


def make_loggers(setup: TrainingSetup, folder: Path) -> list[Logger]:
    """Make the configured loggers; when resuming, TensorBoard drops events of later steps."""
    loggers: list[Logger] = []
    parameters = flatten(stored_config(setup.config, setup.plan))
    for name, settings in setup.config.logger.items():
        arguments: dict[str, Any] = {"save_dir": str(folder)}
        if settings["_target_"].endswith(TensorBoardLogger.__name__) and setup.resumed:
            # Step 0 is logged after its checkpoint, so it will be logged again.
            arguments["purge_step"] = setup.done_steps + 1 if setup.done_steps else 0
        try:
            logger = instantiate_target(name, settings, Logger, arguments)
        except UserError as error:
            advice = f"to train without it: resume={folder} logger=none"
            raise UserError(f"logger.{error}; {advice}") from None
        if not isinstance(logger, TensorBoardLogger):  # its table of few columns comes at the end
            logger.log_hyperparams(parameters)
        loggers.append(logger)
    return loggers


@contextlib.contextmanager
def close_loggers(trainer: Trainer) -> Iterator[None]:
    """Close the trackers after the block, as failed if it raises."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in trainer.loggers:
            if close := getattr(logger, "close", None):
                close(failed)
