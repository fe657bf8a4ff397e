"""What can be known to fail before a corpus is built and a folder made."""

import inspect
import os
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from gptlab.config import sweeps
from gptlab.config.schema import TrainConfig
from gptlab.model.gpt import GPT
from gptlab.model.size import check_size
from gptlab.training.fast.compiled_step import check_compile_mode
from gptlab.training.optim import SCHEDULES, make_optimizer
from gptlab.utils.device import resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError, did_you_mean, resolve_choice


def check_settings(config: TrainConfig) -> None:
    """Raises UserError for settings that no data can make work."""
    check_extra(config.trainer.extra)
    check_sweep(config)
    check_parts(config)


# What the plan decides, or what would make the endless loader begin again.
RESERVED_TRAINER_ARGUMENTS = {
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "max_steps", "max_epochs"),
    *("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch", "callbacks"),
    *("limit_train_batches", "overfit_batches", "reload_dataloaders_every_n_epochs", "logger"),
    *("gradient_clip_val", "gradient_clip_algorithm", "use_distributed_sampler", "plugins"),
    *("min_epochs", "fast_dev_run", "default_root_dir", "deterministic", "enable_checkpointing"),
}


def check_extra(extra: dict[str, Any]) -> None:
    """Raises UserError for arguments that Lightning's Trainer lacks, or that are decided here."""
    known = inspect.signature(Trainer.__init__).parameters
    for name in extra:
        if name not in known:
            raise UserError(
                f"trainer.extra.{name}: Lightning's Trainer has no such argument"
                f"{did_you_mean(name, known)}"
            )
        if name in RESERVED_TRAINER_ARGUMENTS:
            raise UserError(
                f"trainer.extra.{name}: is decided by gptlab's own keys; see "
                "`python train.py --help` for those of trainer, optim, callbacks and logger"
            )


def check_parts(config: TrainConfig) -> None:
    """Raises UserError for names that no table has, before a corpus is built for nothing."""
    model = replace(config.model, vocab_size=config.model.vocab_size or 2)
    check_size(model)
    with torch.device("meta"):
        make_optimizer(GPT(replace(model, n_layer=1)), config.optim, fused=False)
    resolve_choice("optim.schedule", config.optim.schedule, SCHEDULES)
    accelerator = resolve_accelerator(config.trainer.accelerator)
    check_compile_mode(
        config.trainer, accelerator, resolve_precision(config.trainer.precision, accelerator)
    )
    there = torch.cuda.device_count() if accelerator == "cuda" else os.cpu_count() or 1
    if config.trainer.devices > there:
        raise UserError(f"trainer.devices={config.trainer.devices}: this machine has {there}")
    instantiate_group(config.callbacks, Callback)


def check_sweep(config: TrainConfig) -> None:
    """Raises UserError for a sweep on several devices: its processes would share one folder."""
    several = config.trainer.devices * config.trainer.num_nodes > 1
    if several and sweeps.is_sweep_job():
        raise UserError(
            f"trainer.devices={config.trainer.devices}: a sweep (-m) runs on one device; start "
            "its jobs one by one"
        )


def instantiate_group(group: dict[str, Any], kind: type, **arguments: Any) -> list[Any]:
    """The user's own classes, named by `_target_`; raises UserError for any that is no `kind`."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    made = []
    for name, settings in group.items():
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise UserError(f"{kind.__name__.lower()} {name}: needs a class, as {name}._target_=…")
        try:
            made.append(instantiate(arguments | settings))
        except HydraException as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{name}: {settings['_target_']} cannot be made: {reason}") from None
        if not isinstance(made[-1], kind):
            raise UserError(f"{name}: {settings['_target_']} is no {kind.__name__} of Lightning's")
    return made
