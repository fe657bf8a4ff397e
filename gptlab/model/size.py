"""How large a model is, known before anything of it is made."""

from dataclasses import replace

import torch

from gptlab.config.schema import ModelConfig
from gptlab.model.gpt import GPT
from gptlab.utils.device import available_memory
from gptlab.utils.errors import UserError


def check_size(config: ModelConfig) -> None:
    """Raises UserError where not even the weights fit into the memory there is."""
    needed, there = weight_bytes(config), available_memory("cpu")
    if there is not None and needed > there:
        raise UserError(
            f"model: its weights need {needed / 1e9:,.0f} GB and {there / 1e9:.1f} GB are to be "
            "had; take fewer layers, a smaller width, vocabulary or context"
        )


def weight_bytes(config: ModelConfig) -> int:
    """Bytes of all weights and tables in float32. All layers are alike: two tell of any number."""
    one, two = (shape_bytes(replace(config, n_layer=layers)) for layers in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def shape_bytes(config: ModelConfig) -> int:
    try:
        with torch.device("meta"):  # shapes alone
            net = GPT(config)
    except (RuntimeError, TypeError, OverflowError):  # torch cannot even count them
        raise UserError("model: larger than any memory") from None
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
