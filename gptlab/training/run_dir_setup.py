"""Create and lock a run folder in one process, and share it with its children."""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from gptlab.config import sweeps
from gptlab.config.schema import TrainConfig
from gptlab.training.callbacks.metrics_logger import csv_header
from gptlab.training.run_plan import RunPlan, stored_config
from gptlab.utils import run_dir

# Lightning starts the other processes of a multi-device run with the same command: the folder
# created by the first process reaches them in the environment.
RUN_DIR_ENV = "GPTLAB_RUN_DIR"


def is_child_process() -> bool:
    """Whether Lightning started this process from a first one that created the run folder."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and RUN_DIR_ENV in os.environ


def current_run_dir() -> Path | None:
    """Return the folder of the run that this process or its parent is training."""
    return Path(os.environ[RUN_DIR_ENV]) if RUN_DIR_ENV in os.environ else None


def forget_run_dir() -> None:
    """Let the next run of this process create a new folder."""
    if not is_child_process():
        os.environ.pop(RUN_DIR_ENV, None)


@contextlib.contextmanager
def open_run_dir(config: TrainConfig, plan: RunPlan, existing: Path | None) -> Iterator[Path]:
    """Lock `existing`, or create a folder; remove it again if it is never published."""
    if is_child_process():
        yield Path(os.environ[RUN_DIR_ENV])
        return
    folder = existing or reserve_named_run_dir(config)
    os.environ[RUN_DIR_ENV] = str(folder)
    try:
        if not existing:
            staging = run_dir.staging_dir(folder)
            text = yaml.safe_dump(stored_config(config, plan), sort_keys=False, allow_unicode=True)
            (staging / "config.yaml").write_text(text, encoding="utf-8")
            header = csv_header(config.data.task)
            (staging / "metrics.csv").write_text(header, encoding="utf-8", newline="")
        with run_dir.lock_run_dir(folder, published=existing is not None):
            (folder / "summary.json").unlink(missing_ok=True)  # an extended run is unfinished
            yield folder
    finally:
        if not existing:
            run_dir.discard_staging_dir(folder)


def reserve_named_run_dir(config: TrainConfig) -> Path:
    """Reserve a folder named after the run's choices, or its job's folder within a sweep."""
    if sweeps.is_sweep_job():
        job = sweeps.job_dir()
        return run_dir.reserve_run_dir(job.parent, job.name)
    choices = HydraConfig.get().runtime.choices
    name = config.name or choices.get("experiment") or f"{choices['model']}_{choices['data']}"
    root = Path(config.run_root).expanduser()
    return run_dir.reserve_run_dir(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_{name}")
