"""Optimizers and learning-rate schedules. To add one, write a function and add it to a table."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gptlab.config.schema import OptimConfig
from gptlab.model.gpt import GPT
from gptlab.utils.plugins import PluginError, resolve_choice

# Optimizers: (parameter groups, config, fused) -> optimizer. `fused` updates each tensor in one
# pass; it excludes gradients that must be unscaled first (16-mixed).

ParameterGroups = list[dict[str, Any]]


def adamw(groups: ParameterGroups, config: OptimConfig, fused: bool) -> Optimizer:
    return AdamW(groups, **adam_settings(config), fused=fused)


def adam(groups: ParameterGroups, config: OptimConfig, fused: bool) -> Optimizer:
    return Adam(groups, **adam_settings(config), fused=fused)


def adam_settings(config: OptimConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": tuple(config.betas), "eps": config.eps}


def sgd(groups: ParameterGroups, config: OptimConfig, fused: bool) -> Optimizer:
    return SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)


OptimizerFactory = Callable[[ParameterGroups, OptimConfig, bool], Optimizer]
OPTIMIZERS: dict[str, OptimizerFactory] = {"adamw": adamw, "adam": adam, "sgd": sgd}


# Schedules: (step, total steps, config) -> learning rate, after the warmup.


def constant(step: int, total_steps: int, config: OptimConfig) -> float:
    return config.lr


def cosine(step: int, total_steps: int, config: OptimConfig) -> float:
    """Follow half a cosine from lr to min_lr. Loshchilov and Hutter (2016), arXiv:1608.03983."""
    warmup = config.warmup_steps or 0
    progress = (step - warmup) / max(1, total_steps - warmup)
    factor = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.min_lr + (config.lr - config.min_lr) * factor


def warmup_stable_decay(step: int, total_steps: int, config: OptimConfig) -> float:
    """Stay at lr, then decay linearly to min_lr. Hu et al. (2024), arXiv:2404.06395."""
    cooldown_steps = config.cooldown_fraction * total_steps
    factor = min(1.0, max(0.0, (total_steps - step) / cooldown_steps)) if cooldown_steps else 1.0
    return config.min_lr + (config.lr - config.min_lr) * factor


SCHEDULES: dict[str, Callable[[int, int, OptimConfig], float]] = {
    "constant": constant,
    "cosine": cosine,
    "wsd": warmup_stable_decay,
}


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Return the rate of optimizer step `step`, counted from 0.

    The rate rises linearly over the first `warmup_steps`, then follows the schedule.
    """
    schedule = resolve_choice("optim.schedule", config.schedule, SCHEDULES)
    if config.warmup_steps and step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return schedule(step, total_steps, config)


def make_optimizer(
    net: GPT, config: OptimConfig, fused: bool, layer_decay: float = 1.0
) -> Optimizer:
    """Make the optimizer of the net's parameters; raises UserError for an unknown name."""
    return build_optimizer(parameter_groups(net, config, layer_decay), config, fused)


def build_optimizer(groups: ParameterGroups, config: OptimConfig, fused: bool) -> Optimizer:
    """Build the optimizer of `optim.name`; another package's class gets rate and weight decay."""
    make: Any = resolve_choice("optim.name", config.name, OPTIMIZERS)
    is_class = isinstance(make, type) and issubclass(make, Optimizer)
    try:
        optimizer = make(groups, lr=config.lr) if is_class else make(groups, config, fused)
    except (TypeError, ValueError) as error:
        if not is_class:
            raise
        raise PluginError(f"optim.name={config.name}: {error}") from None
    if not isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise PluginError(f"optim.name={config.name}: must make a torch Optimizer, not {kind}")
    try:
        inspect.signature(optimizer.step).bind()
    except TypeError:
        raise PluginError(f"optim.name={config.name}: needs a closure to step") from None
    return optimizer


def check_optim(config: OptimConfig) -> None:
    """Raise UserError for an optimizer or a schedule that cannot be used."""
    optimizer_values_per_weight(config)
    warmup = config.warmup_steps or 0
    rate = learning_rate(warmup, warmup + 1, config)
    if not isinstance(rate, int | float):
        kind = type(rate).__name__
        raise PluginError(f"optim.schedule={config.schedule}: must return a number, not {kind}")


def optimizer_values_per_weight(config: OptimConfig) -> int:
    """Count the numbers that the optimizer stores per weight, by one step on a small tensor."""
    weights = nn.Parameter(torch.zeros(32, 32))
    weights.grad = torch.zeros_like(weights)
    optimizer = build_optimizer([{"params": [weights]}], config, False)
    optimizer.step()
    state = optimizer.state[weights].values()
    return sum(value.numel() for value in state if isinstance(value, Tensor)) // weights.numel()


def parameter_groups(net: GPT, config: OptimConfig, layer_decay: float = 1.0) -> ParameterGroups:
    """Group the trained parameters by weight decay and learning rate, highest rate first.

    Weight decay applies to matrices only (embeddings included); to everything with
    weight_decay_on=all.
    With `layer_decay` d the rate is lr · d ** (layers above), counting the head as one layer and
    the embeddings as one. Clark et al. (2020), "ELECTRA", arXiv:2003.10555.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            above = layers_above(name, net.config.n_layer) if layer_decay < 1 else 0
            decayed = config.weight_decay_on == "all" or parameter.ndim >= 2
            groups.setdefault((above, not decayed), []).append(parameter)
    return [
        {
            "params": groups[above, undecayed],
            "weight_decay": 0.0 if undecayed else config.weight_decay,
            "lr": config.lr * layer_decay**above,
        }
        for above, undecayed in sorted(groups)
    ]


def layers_above(name: str, n_layer: int) -> int:
    """Return 0 for head and final norm, 1 for the last block, … n_layer + 1 for embeddings."""
    if name.startswith("blocks."):
        return n_layer - int(name.split(".")[1])
    return 0 if name.startswith(("head.", "final_norm.")) else n_layer + 1


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients as one vector.

    Same as torch.nn.utils.get_total_norm, in half the time where torch has its private function:
    no search for devices and dtypes.
    """
    norms = getattr(
        torch, "_foreach_norm", lambda each: [torch.linalg.vector_norm(g) for g in each]
    )
    return torch.linalg.vector_norm(torch.stack(norms(gradients)))
