"""The parts of a run put together: callbacks, Lightning's Trainer, and how long it will take."""

import logging
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gptlab.config.schema import TrainConfig
from gptlab.generation.engine import training_prompt
from gptlab.training.callbacks.checkpointing import AtomicCheckpointIO, CheckpointWriter
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.publish_run_dir import PublishRunDir
from gptlab.training.callbacks.sample_writer import PredictionWriter, SampleWriter
from gptlab.training.checks import instantiate_group
from gptlab.training.fast.fast_loop import FastLoop
from gptlab.training.resume import ResumedRun, resolved_settings
from gptlab.training.run_plan import RunPlan
from gptlab.training.run_summary import typed_command
from gptlab.training.suites import InitialEvaluation, TrainingEvaluator
from gptlab.utils.errors import UserError


def make_callbacks(
    examiner: TrainingEvaluator, folder: Path, seconds: float, resumed: ResumedRun | None
) -> list[Callback]:
    """What every run has; the order is that in which they act after a step."""
    config, plan, corpus = examiner.config, examiner.plan, examiner.data.corpus
    best_possible = examiner.data.best_possible(config.data.valid_tokens)
    metrics_logger = MetricsLogger(folder, plan, config, best_possible, resumed)
    shutdown = GracefulShutdown()
    prompt = training_prompt(config, corpus)
    content = {"config": stored_config(config, plan), "tokenizer": corpus.tokenizer.state()}
    samples, more = (PredictionWriter, {"corpus": corpus}) if corpus.classes else (SampleWriter, {})
    facts = {
        "decided": resolved_settings(plan, torch.get_num_threads()),
        "corpus": corpus.folder.name,
        "command": resumed.command if resumed else typed_command(),
        "classes": corpus.classes,
    }
    return [
        shutdown,
        metrics_logger,
        *([] if resumed else [PublishRunDir(folder, make_loggers(config, folder, None))]),
        InitialEvaluation(examiner, metrics_logger, shutdown),
        ProgressBar(metrics_logger, plan.steps, seconds),
        samples(folder, plan, metrics_logger, corpus.tokenizer, prompt, config, shutdown, **more),
        CheckpointWriter(folder, plan, metrics_logger, content, facts, config.trainer),
    ]


def stored_config(config: TrainConfig, plan: RunPlan) -> dict[str, Any]:
    """The configuration as checkpoints and config.yaml keep it: the model's sizes decided."""
    return asdict(config) | {"model": asdict(plan.model), "resume": None}


def make_trainer(
    config: TrainConfig,
    plan: RunPlan,
    ours: list[Callback],
    folder: Path,
    resumed: ResumedRun | None,
) -> Trainer:
    """Lightning's Trainer; raises UserError for a trainer.extra that it does not take.

    Loggers make their files at once: of a new run they wait until its folder has appeared.
    """
    wanted = config.trainer
    validate_every = plan.eval_every * plan.shape.accumulate
    arguments = {
        "accelerator": plan.accelerator,
        "devices": wanted.devices,
        "num_nodes": wanted.num_nodes,
        "strategy": wanted.strategy,
        "precision": plan.precision,
        "max_steps": plan.steps,
        "max_epochs": -1,  # the loader never ends; an epoch is counted in rows
        "accumulate_grad_batches": plan.shape.accumulate,
        "val_check_interval": validate_every or None,
        "limit_val_batches": 1.0 if validate_every else 0,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "deterministic": torch.are_deterministic_algorithms_enabled(),  # see run.prepare_torch
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "plugins": [AtomicCheckpointIO()],
        "callbacks": ours + instantiate_group(config.callbacks, Callback),
        "logger": make_loggers(config, folder, resumed.step) if resumed else False,
    }
    try:
        trainer = Trainer(**arguments | wanted.extra)
    except (TypeError, ValueError, MisconfigurationException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Lightning cannot train with these trainer settings: {reason}") from None
    if wanted.fast_loop:
        trainer.fit_loop.epoch_loop = FastLoop(trainer, trainer.min_steps, trainer.max_steps)
    return trainer


def make_loggers(config: TrainConfig, folder: Path, goes_on_after: int | None) -> list[Logger]:
    """Those of the configuration; what TensorBoard was told of later steps is void."""
    made = []
    for name, settings in config.logger.items():
        known = settings if isinstance(settings, dict) else {}
        board = str(known.get("_target_", "")).endswith(TensorBoardLogger.__name__)
        more = {}
        if board and goes_on_after is not None:
            # What step 0 has is written after its checkpoint: it will be written again.
            more = {"purge_step": goes_on_after + 1 if goes_on_after else 0}
        made += instantiate_group({name: settings}, Logger, save_dir=str(folder), **more)
    return made


# What the opening lines say already, advertisements, and the normal end of a run.
UNINFORMATIVE_LINES = re.compile(
    r"(GPU|TPU|HPU) available|limit_val_batches=1.0|val_check_interval=1\)|💡 Tip|"
    r"Restor(ing|ed all) states from the checkpoint|"
    r"Trainer\.fit.* stopped: `max_steps|"
    r"Trainer already configured with model summary|LOCAL_RANK|Initializing distributed|"
    r"distributed_backend=|^-{20,}|Using .*bfloat16 Automatic|Using .*16bit Automatic|Seed set to"
)


def is_informative(record: logging.LogRecord) -> bool:
    return not UNINFORMATIVE_LINES.search(record.getMessage())


def silence_lightning() -> None:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(name).addFilter(is_informative)
    # Batches are made whole by one indexed read: workers would only add cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning's own call in `strategy.all_gather`.
    warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
    # Lightning's own call of a pytree function that torch has deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
