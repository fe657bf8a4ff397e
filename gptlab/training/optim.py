"""Optimizers, and learning rates as pure functions of the step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gptlab.config.schema import OptimConfig
from gptlab.model.gpt import GPT
from gptlab.utils.errors import resolve_choice


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
    schedule = resolve_choice("optim.schedule", config.schedule, SCHEDULES)
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return schedule(step, steps, config)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients as one vector: torch.nn.utils.get_total_norm, which in half its
    time looks for several devices and dtypes."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def parameter_groups(net: GPT, config: OptimConfig, layer_decay: float = 1.0) -> list[dict]:
    """Weight decay for matrices only (embeddings too), or for all parameters.

    With `layer_decay` d the rate is lr · d ** (layers above), counting the head as one layer and
    the embeddings as one. Clark and others (2020), "ELECTRA", arXiv:2003.10555. The groups of the
    highest rate come first.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            above = layers_above(name, net.config.n_layer) if layer_decay < 1 else 0
            decayed = config.decay == "all" or parameter.ndim >= 2
            groups.setdefault((above, not decayed), []).append(parameter)
    return [
        {
            "params": groups[above, plain],
            "weight_decay": 0.0 if plain else config.weight_decay,
            "lr": config.lr * layer_decay**above,
        }
        for above, plain in sorted(groups)
    ]


def layers_above(name: str, n_layer: int) -> int:
    """0 for head and final norm, 1 for the last block, … n_layer + 1 for embeddings."""
    if name.startswith("blocks."):
        return n_layer - int(name.split(".")[1])
    return 0 if name.startswith(("head.", "final_norm.")) else n_layer + 1


def make_optimizer(
    net: GPT, config: OptimConfig, fused: bool, layer_decay: float = 1.0
) -> Optimizer:
    """The optimizer over the net's parameters; raises UserError for a name it does not know.

    `fused` updates each tensor in one pass; it cannot have its gradients unscaled before.
    """
    groups = parameter_groups(net, config, layer_decay)
    adam = {"lr": config.lr, "betas": tuple(config.betas), "eps": config.eps, "fused": fused}
    table: dict[str, Callable[[], Optimizer]] = {
        "adamw": lambda: AdamW(groups, **adam),
        "adam": lambda: Adam(groups, **adam),
        "sgd": lambda: SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused),
    }
    return resolve_choice("optim.name", config.name, table)()
