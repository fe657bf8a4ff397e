"""Refuse values and combinations of values that can never work, before anything is built.

Values that depend on the data or the machine are checked where these are known
(gptlab/training/run_plan.py, gptlab/training/preflight.py).
"""

import ipaddress
import math
import re
from typing import Any

from gptlab.config.keys import flatten, keys_of
from gptlab.config.schema import AppConfig, TrainConfig
from gptlab.utils.errors import UserError, invalid_choice
from gptlab.utils.plugins import is_reference


def validate_config(config: Any) -> None:
    """Raise UserError for a value that can never work, whatever the data and the machine."""
    schema: type = type(config)
    infos = keys_of(schema)
    for name, value in flatten(config).items():
        info = infos[name]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{name}={item} must be a finite number")
            if item is None:
                continue
            if (info.low is not None and item < info.low) or (
                info.high is not None and item > info.high
            ):
                raise UserError(f"{name}={item} must be {info.range}")
            if info.allowed:
                choice = item.lower() if item in ("True", "False") else item  # typed as a boolean
                is_plugin = info.takes_plugins and is_reference(choice)
                if choice not in info.choices and not is_plugin:
                    raise UserError(invalid_choice(name, choice, info.offered))
    if isinstance(config, TrainConfig):
        validate_training(config)
    if isinstance(config, AppConfig):
        validate_app(config)


def validate_training(config: TrainConfig) -> None:
    """Raise UserError for valid values that contradict each other."""
    model, data, optim, trainer = config.model, config.data, config.optim, config.trainer
    if model.d_model % model.n_head:
        limit = min(model.d_model, 1024)  # d_model may be a stranger's absurd number
        divisors = [n for n in range(1, limit + 1) if model.d_model % n == 0]
        below = [n for n in divisors if n < model.n_head][-1:]
        nearest = below + [n for n in divisors if n > model.n_head][:1]
        raise UserError(
            f"model.n_head={model.n_head} must divide model.d_model={model.d_model} "
            f"(try {' or '.join(map(str, nearest))})"
        )
    if model.position == "rotary" and (model.d_model // model.n_head) % 2:
        raise UserError(
            f"model.position=rotary needs an even head width, but model.d_model={model.d_model} / "
            f"model.n_head={model.n_head} is {model.d_model // model.n_head}"
        )
    if model.position == "sinusoidal" and model.d_model % 2:
        raise UserError(f"model.d_model={model.d_model} must be even for model.position=sinusoidal")
    if config.from_scratch and not (config.init_from or model.pretrained):
        raise UserError(
            "from_scratch=true takes the architecture of another model: add init_from=RUN or "
            "model.pretrained=NAME; a run has random weights anyway"
        )
    if not (config.init_from or model.pretrained):  # these bring their own context_length
        validate_row_length(data.row_length, model.context_length)
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas={optim.betas} must be two numbers from 0 to below 1")
    if optim.schedule != "constant" and optim.min_lr > optim.lr:
        raise UserError(f"optim.min_lr={optim.min_lr:g} must be at most optim.lr={optim.lr:g}")
    if config.finetune.lora_rank and "*" in config.finetune.trainable:
        raise UserError(
            f"finetune.lora_rank={config.finetune.lora_rank} needs frozen weights, but "
            "finetune.trainable=[*] trains them all; use finetune=lora"
        )
    if trainer.tokens_per_step and trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"trainer.tokens_per_step={trainer.tokens_per_step} sets the accumulation; remove "
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
        )


def validate_app(config: AppConfig) -> None:
    """Raise UserError for an unusable token, or a page that others can reach without one."""
    if config.token is not None and not re.fullmatch(r"[\w.~-]{16,200}", config.token, re.ASCII):
        raise UserError("token must be 16 to 200 letters, digits or any of _ . ~ -")
    if config.token is None and not is_loopback(config.host):
        raise UserError(
            f"host={config.host} lets other machines reach the page; add token=… (at least 16 "
            "letters), or remove host"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def validate_row_length(row_length: int | None, context_length: int) -> None:
    """Raise UserError for rows longer than the model's context and one target."""
    if row_length and row_length > context_length + 1:
        raise UserError(
            f"data.row_length={row_length} must be at most {context_length + 1} "
            "(model.context_length + 1: input and target)"
        )
