"""Compute the size of a model without allocating it."""

from dataclasses import replace

import torch

from gptlab.config.keys import plugin_references
from gptlab.config.schema import ModelConfig
from gptlab.model.gpt import GPT
from gptlab.utils.device import available_memory
from gptlab.utils.errors import UserError


def check_size(config: ModelConfig) -> None:
    """Raise UserError if the weights alone do not fit into the available memory."""
    needed, available = weight_bytes(config), available_memory("cpu")
    if available is not None and needed > available:
        raise UserError(
            f"model: its weights need {needed / 1e9:,.0f} GB of {available / 1e9:.1f} GB "
            "available; choose fewer layers, a smaller width, vocabulary or context"
        )


def weight_bytes(config: ModelConfig) -> int:
    """Return the bytes of all weights and buffers in float32, from models of one and two layers."""
    one, two = (meta_bytes(replace(config, n_layer=layers)) for layers in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def meta_bytes(config: ModelConfig) -> int:
    try:
        with torch.device("meta"):  # shapes only
            net = GPT(config)
    except (RuntimeError, TypeError, OverflowError):  # sizes beyond what torch can count
        if plugin_references(config):  # or a layer that cannot be built without memory
            return 0
        raise UserError("model: is larger than any memory") from None
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
