"""Choose which weights to train, and add trainable low-rank matrices (LoRA).

Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685: a matrix W
becomes W + alpha / rank · up · down, and only up and down are trained. up starts as zeros, so that
the model starts unchanged.
"""

import math
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.schema import FinetuneConfig
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError


class LoraLinear(nn.Linear):
    """A linear layer with its original weights and a low-rank addition."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_down = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        addition = F.linear(F.linear(x, self.lora_down), self.lora_up)
        return F.linear(x, self.weight, self.bias) + self.scale * addition

    def merged(self) -> nn.Linear:
        """Return an ordinary layer that computes the same."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight, layer.bias = self.weight, self.bias
        with torch.no_grad():
            layer.weight += self.scale * self.lora_up @ self.lora_down
        return layer


def add_lora(net: GPT, config: FinetuneConfig) -> None:
    """Replace the layers that `lora_targets` matches by LoraLinear, if `lora_rank` is set.

    Raises UserError if a pattern matches no layer, or the rank is not below a layer's width.
    """
    if config.lora_rank is None:
        return
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    if net.config.tied_head:
        del layers["head"]  # its matrix is the embedding's, which cannot have an addition
    for name in match_names(config.lora_targets, layers, net, "finetune.lora_targets"):
        layer = layers[name]
        if config.lora_rank >= min(layer.in_features, layer.out_features):
            raise UserError(
                f"finetune.lora_rank={config.lora_rank} must be below the width of {name}, "
                f"{layer.in_features} to {layer.out_features}"
            )
        net.set_submodule(name, LoraLinear(layer, config.lora_rank, config.lora_alpha))


def merge_lora(net: GPT) -> None:
    """Replace every LoraLinear by an ordinary layer that computes the same."""
    for name, layer in list(lora_layers(net)):
        net.set_submodule(name, layer.merged())


def lora_layers(net: GPT) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, m) for name, m in net.named_modules() if isinstance(m, LoraLinear))


def freeze(net: GPT, config: FinetuneConfig) -> None:
    """Freeze all weights but the matches of `trainable` and a classifier's new head.

    Raises UserError if a pattern matches no weight, or nothing would be trained.
    """
    weights = dict(net.named_parameters())
    trainable = set(match_names(config.trainable, weights, net, "finetune.trainable"))
    for name, weight in weights.items():
        is_class_head = net.config.n_classes is not None and name.startswith("head.")
        weight.requires_grad_(name in trainable or is_class_head)
    if not any(weight.requires_grad for weight in weights.values()):
        raise UserError(
            "finetune.trainable matches no weight, so nothing would be trained (a language "
            "model's head is tied to its embedding: try finetune=last_block)"
        )


def match_names(patterns: list[str], names: Collection[str], net: GPT, key: str) -> list[str]:
    """Return the names that match any pattern; `blocks.-1` counts from the last block.

    Raises UserError for a pattern that matches none.
    """
    matches: dict[str, None] = {}
    for pattern in patterns:
        absolute = re.sub(
            r"blocks\.-(\d+)", lambda m: f"blocks.{net.config.n_layer - int(m[1])}", pattern
        )
        matching = [name for name in names if fnmatchcase(name, absolute)]
        if not matching and pattern == "head.*" and net.config.tied_head:
            continue  # a tied head has no weights of its own
        if not matching:
            available = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)
            raise UserError(
                f"{key}={pattern} matches nothing in this model; choose from {', '.join(available)}"
            )
        matches |= dict.fromkeys(matching)
    return list(matches)
