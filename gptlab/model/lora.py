"""Training a part of a model: weights chosen by name, and low-rank additions to its matrices.

Hu and others (2021), "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685: in
place of a matrix W, W + alpha / rank · up · down, where only up and down are trained. up begins as
zeros, so that the model begins as it was.
"""

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.schema import FinetuneConfig
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError


class LoraLinear(nn.Linear):
    """A linear layer, its weights as they were, and the addition; in its shapes R is the rank."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.lora_down = nn.Parameter(torch.empty(rank, plain.in_features))
        self.lora_up = nn.Parameter(torch.zeros(plain.out_features, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        addition = F.linear(F.linear(x, self.lora_down), self.lora_up)
        return F.linear(x, self.weight, self.bias) + self.scale * addition

    def merged(self) -> nn.Linear:
        """One layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        plain.weight, plain.bias = self.weight, self.bias
        with torch.no_grad():
            plain.weight += self.scale * self.lora_up @ self.lora_down
        return plain


def add_lora(net: GPT, config: FinetuneConfig) -> None:
    """Puts a LoraLinear in the place of each layer that `lora_targets` names, if there is a rank.

    Raises UserError where a pattern names none, or the rank is no less than a layer's width.
    """
    if config.lora_rank is None:
        return
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    if net.config.tied_head:
        del layers["head"]  # its matrix is the embedding's, which has no such addition
    for name in matching(config.lora_targets, layers, net, "finetune.lora_targets"):
        plain = layers[name]
        if config.lora_rank >= min(plain.in_features, plain.out_features):
            raise UserError(
                f"finetune.lora_rank={config.lora_rank}: must be below the width of {name}, "
                f"{plain.in_features} to {plain.out_features}"
            )
        net.set_submodule(name, LoraLinear(plain, config.lora_rank, config.lora_alpha))


def merge_lora(net: GPT) -> None:
    """Makes of every LoraLinear the plain layer that computes the same."""
    for name, layer in list(lora_layers(net)):
        net.set_submodule(name, layer.merged())


def lora_layers(net: GPT) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, m) for name, m in net.named_modules() if isinstance(m, LoraLinear))


def freeze(net: GPT, config: FinetuneConfig) -> None:
    """Lets only the weights that `trainable` names be trained, and a classifier's head, which is
    new. Raises UserError where a pattern names none."""
    weights = dict(net.named_parameters())
    chosen = set(matching(config.trainable, weights, net, "finetune.trainable"))
    for name, weight in weights.items():
        of_classes = net.config.n_classes is not None and name.startswith("head.")
        weight.requires_grad_(name in chosen or of_classes)
    if not any(weight.requires_grad for weight in weights.values()):
        raise UserError(
            "finetune.trainable: names no weight, so nothing would be trained (a model that writes "
            "has its embedding's matrix as its head: take finetune=last_block)"
        )


def matching(patterns: list[str], names: dict, net: GPT, key: str) -> list[str]:
    """The names that fit one of the patterns; raises UserError for one that none fits."""
    found: dict[str, None] = {}
    for pattern in patterns:
        counted = re.sub(
            r"blocks\.-(\d+)", lambda m: f"blocks.{net.config.n_layer - int(m[1])}", pattern
        )
        fits = [name for name in names if fnmatchcase(name, counted)]
        if not fits and pattern == "head.*" and net.config.tied_head:
            continue  # of a model that writes with its embedding: there is no head to train
        if not fits:
            there = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
            raise UserError(f"{key}={pattern}: names nothing of this model; there are: {there}")
        found |= dict.fromkeys(fits)
    return list(found)
