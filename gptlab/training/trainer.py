"""Make Lightning's Trainer for a run, with its callbacks and loggers."""

import inspect
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.config.schema import TrainerConfig
from gptlab.training.callbacks.checkpointing import CheckpointWriter
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown
from gptlab.training.callbacks.initial_evaluation import InitialEvaluation
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.publish_run_dir import PublishRunDir
from gptlab.training.callbacks.sample_writer import PredictionWriter, SampleWriter
from gptlab.training.callbacks.start_loggers import StartLoggers
from gptlab.training.checkpoint_io import AtomicCheckpointIO
from gptlab.training.instantiate import instantiate_callbacks
from gptlab.training.run_dir_setup import is_child_process
from gptlab.training.run_plan import TrainingSetup
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.program import program
from gptlab.utils.system import keep_freed_memory

# gptlab sets these itself, or they would restart the endless dataloader.
RESERVED_TRAINER_ARGUMENTS = {
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "max_steps", "max_epochs"),
    *("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch", "callbacks"),
    *("limit_train_batches", "overfit_batches", "reload_dataloaders_every_n_epochs", "logger"),
    *("gradient_clip_val", "gradient_clip_algorithm", "use_distributed_sampler", "plugins"),
    *("min_epochs", "fast_dev_run", "default_root_dir", "deterministic", "enable_checkpointing"),
}


def check_trainer_arguments(extra: dict[str, Any]) -> None:
    """Raise UserError for a trainer.extra that Lightning's Trainer lacks or gptlab sets itself."""
    parameters = inspect.signature(Trainer.__init__).parameters
    for name in extra:
        if name not in parameters:
            near = did_you_mean(name, parameters)
            raise UserError(f"trainer.extra.{name}: Lightning's Trainer has no such argument{near}")
        if name in RESERVED_TRAINER_ARGUMENTS:
            raise UserError(
                f"trainer.extra.{name}: gptlab sets this argument; use its own keys instead (see "
                f"trainer, optim, callbacks and logger in `{program('train')} --help all`)"
            )


# What torchrun, Lightning, SLURM and LSF tell the processes that they start.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "JSM_NAMESPACE_RANK"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "PL_GLOBAL_SEED"),
)


def forget_inherited_ranks(settings: TrainerConfig) -> None:
    """Remove ranks that an image, a notebook or an interactive job left in the environment.

    Lightning would take this process for one of several. Nothing is removed where this is true.
    """
    sizes = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "JSM_NAMESPACE_SIZE")]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sizes.append(os.environ.get("WORLD_SIZE", "1"))
    if is_child_process() or settings.num_nodes > 1 or set(sizes) != {"1"}:
        return
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]  # read from them at the import


def configure_torch(settings: TrainerConfig, accelerator: str) -> None:
    """Set threads, memory reuse and determinism; call before computing or compiling."""
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if settings.keep_freed_memory and accelerator == "cpu":
        keep_freed_memory()
    exact = accelerator == "cpu" if settings.deterministic is None else settings.deterministic
    if exact:  # cuBLAS reads it at its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact)
    # gptlab reads no uninitialized memory, so filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module


def make_callbacks(setup: TrainingSetup, folder: Path, expected_seconds: float) -> list[Callback]:
    """Make the callbacks of every run, in the order in which they act after a step."""
    metrics_logger, shutdown = MetricsLogger(setup, folder), GracefulShutdown()
    publish = [] if setup.resumed else [PublishRunDir(folder)]
    sample_writer = PredictionWriter if setup.corpus.classes else SampleWriter
    return [
        shutdown,
        metrics_logger,
        *publish,
        StartLoggers(setup, folder),
        InitialEvaluation(setup, metrics_logger, shutdown),
        ProgressBar(metrics_logger, setup.plan.steps, expected_seconds),
        sample_writer(setup, folder, metrics_logger, shutdown),
        CheckpointWriter(setup, folder, metrics_logger),
    ]


def make_trainer(setup: TrainingSetup, folder: Path, callbacks: list[Callback]) -> Trainer:
    """Make Lightning's Trainer; raise UserError for arguments that it does not accept."""
    plan, settings = setup.plan, setup.config.trainer
    validate_every = plan.eval_every * plan.shape.accumulate  # micro-batches
    arguments: dict[str, Any] = {
        "accelerator": plan.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": settings.strategy,
        "precision": plan.precision,
        "max_steps": plan.steps,
        "max_epochs": -1,  # the loader never ends; epochs are counted in rows
        "accumulate_grad_batches": plan.shape.accumulate,
        "val_check_interval": validate_every or None,
        "limit_val_batches": 1.0 if validate_every else 0,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "deterministic": torch.are_deterministic_algorithms_enabled(),  # see configure_torch
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "plugins": [AtomicCheckpointIO()],
        "callbacks": callbacks + instantiate_callbacks(setup.config),
        "logger": [DummyLogger() for _ in setup.config.logger],  # StartLoggers replaces them
    }
    try:
        return Trainer(**arguments | settings.extra)
    except (TypeError, ValueError, MisconfigurationException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Lightning cannot train with these trainer settings: {reason}") from None


def find_callback(trainer: Trainer, kind: type[Any]) -> Any:
    """Return the trainer's callback of this class."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in __init__
    return next(callback for callback in callbacks if isinstance(callback, kind))


# Messages that repeat the opening lines, advertise, or report the normal end of a run.
UNINFORMATIVE_LINES = re.compile(
    r"(GPU|TPU|HPU) available|limit_val_batches=1.0|val_check_interval=1\)|💡 Tip|"
    r"Detected KeyboardInterrupt|Restor(ing|ed all) states from the checkpoint|"
    r"Trainer\.fit.* stopped: `max_steps|"
    r"Trainer already configured with model summary|LOCAL_RANK|Initializing distributed|"
    r"distributed_backend=|^-{20,}|Using .*bfloat16 Automatic|Using .*16bit Automatic|Seed set to"
)


SILENCED_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.distributed",
)


def is_informative(record: logging.LogRecord) -> bool:
    return not UNINFORMATIVE_LINES.search(record.getMessage())


def silence_lightning() -> None:
    """Filter uninformative Lightning messages."""
    for name in SILENCED_LOGGERS:
        logging.getLogger(name).addFilter(is_informative)
    # One indexed read makes a whole batch, so loader workers would not be faster.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning's own calls of deprecated functions.
    warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
