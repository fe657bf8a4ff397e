"""Optimizers, and learning rates as pure functions of the step."""

import math
from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gptlab.config import OptimConfig
from gptlab.errors import look_up


def constant(step: int, steps: int, config: OptimConfig) -> float:
    return config.lr


def cosine(step: int, steps: int, config: OptimConfig) -> float:
    """Half a cosine from lr to min_lr. Loshchilov and Hutter (2016), arXiv:1608.03983."""
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return (
        config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2
    )


def wsd(step: int, steps: int, config: OptimConfig) -> float:
    """Stable at lr, then a straight line to min_lr. Hu and others (2024), arXiv:2404.06395."""
    length = config.cooldown * steps
    left = min(1.0, max(0.0, (steps - step) / length)) if length else 1.0
    return config.min_lr + (config.lr - config.min_lr) * left


SCHEDULES: dict[str, Callable[[int, int, OptimConfig], float]] = {
    "constant": constant,
    "cosine": cosine,
    "wsd": wsd,
}


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The rate of optimizer step `step`, counted from 0, of `steps` in all.

    Linear warm-up to the highest rate over the first `warmup_steps`, then the schedule.
    """
    schedule = look_up("optim.schedule", config.schedule, SCHEDULES)
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return schedule(step, steps, config)


def parameter_groups(net: nn.Module, config: OptimConfig) -> list[dict]:
    """Weight decay for matrices only (embeddings too), or for all parameters."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in parameters if config.decay == "all" or p.ndim >= 2]
    rest = [p for p in parameters if config.decay != "all" and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(net: nn.Module, config: OptimConfig, fused: bool) -> Optimizer:
    """The optimizer over the net's parameters; raises UserError for a name it does not know.

    `fused` updates each tensor in one pass; it cannot have its gradients unscaled before.
    """
    groups = list(parameter_groups(net, config))
    adam = {"lr": config.lr, "betas": tuple(config.betas), "eps": config.eps, "fused": fused}
    table: dict[str, Callable[[], Optimizer]] = {
        "adamw": lambda: AdamW(groups, **adam),
        "adam": lambda: Adam(groups, **adam),
        "sgd": lambda: SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused),
    }
    return look_up("optim.name", config.name, table)()
