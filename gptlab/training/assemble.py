"""The parts of a run put together: callbacks, Lightning's Trainer, and how long it will take."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gptlab.commands import TrainConfig
from gptlab.errors import UserError
from gptlab.generation.engine import sample_prompt
from gptlab.training.callbacks import Interruption
from gptlab.training.checkpoint import AtomicCheckpointIO
from gptlab.training.checks import plugged
from gptlab.training.loop import ShortLoop
from gptlab.training.meter import Meter
from gptlab.training.plan import Plan
from gptlab.training.progress import Progress
from gptlab.training.resume import Resumed, decided
from gptlab.training.samples import Examples, Samples
from gptlab.training.saving import Birth, Checkpoints
from gptlab.training.suites import Before, Examiner
from gptlab.training.summary import command


def make_callbacks(
    examiner: Examiner, folder: Path, seconds: float, resumed: Resumed | None
) -> list[Callback]:
    """What every run has; the order is that in which they act after a step."""
    config, plan, corpus = examiner.config, examiner.plan, examiner.data.corpus
    best_possible = examiner.data.best_possible(config.data.valid_tokens)
    meter = Meter(folder, plan, config, best_possible, resumed)
    interruption = Interruption()
    prompt = sample_prompt(config, corpus)
    content = {"config": stored_config(config, plan), "tokenizer": corpus.tokenizer.state()}
    samples, more = (Examples, {"corpus": corpus}) if corpus.classes else (Samples, {})
    facts = {
        "decided": decided(plan, torch.get_num_threads()),
        "corpus": corpus.folder.name,
        "command": resumed.command if resumed else command(),
        "classes": corpus.classes,
    }
    return [
        interruption,
        meter,
        *([] if resumed else [Birth(folder, make_loggers(config, folder, None))]),
        Before(examiner, meter, interruption),
        Progress(meter, plan.steps, seconds),
        samples(folder, plan, meter, corpus.tokenizer, prompt, config, interruption, **more),
        Checkpoints(folder, plan, meter, content, facts, config.trainer),
    ]


def stored_config(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    """The configuration as checkpoints and config.yaml keep it: the model's sizes decided."""
    return asdict(config) | {"model": asdict(plan.model), "resume": None}


def make_trainer(
    config: TrainConfig, plan: Plan, ours: list[Callback], folder: Path, resumed: Resumed | None
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
        "callbacks": ours + plugged(config.callbacks, Callback),
        "logger": make_loggers(config, folder, resumed.step) if resumed else False,
    }
    try:
        trainer = Trainer(**arguments | wanted.extra)
    except (TypeError, ValueError, MisconfigurationException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Lightning cannot train with these trainer settings: {reason}") from None
    if wanted.short_loop:
        trainer.fit_loop.epoch_loop = ShortLoop(trainer, trainer.min_steps, trainer.max_steps)
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
        made += plugged({name: settings}, Logger, save_dir=str(folder), **more)
    return made
