"""Linear layers that are fast for a few rows on a CPU, and layers with 8- or 16-bit weights.

Multiplying one token by a weight matrix takes as long as reading the matrix. `F.linear` reads it
with one thread, and for two to eight rows in a slow order (docs/speed.md). The functions here give
the same numbers except for rounding.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.utils.errors import UserError

MAX_ROWS = 8  # with more rows, F.linear is faster
MIN_WEIGHTS = 2**18  # smaller matrices stay in the processor's cache anyway
KERNEL_WIDTH = 32  # numbers that the 8-bit kernel reads at once, even past the end of a row


def cpu_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Compute `layer(x)`, sharing a large matrix among all threads if x has few rows."""
    weight_OxI, rows = layer.weight, x.shape[:-1].numel()
    if rows > MAX_ROWS or weight_OxI.numel() < MIN_WEIGHTS:
        return F.linear(x, weight_OxI, layer.bias)
    if rows > 1:
        y_NxO = (weight_OxI @ x.reshape(rows, -1).T).T
    else:
        y_NxO = threaded_linear(x.reshape(1, -1), weight_OxI, torch.get_num_threads())
    y = y_NxO.reshape(*x.shape[:-1], -1)
    return y if layer.bias is None else y + layer.bias


def threaded_linear(x_1xI: Tensor, weight_OxI: Tensor, threads: int) -> Tensor:
    """Compute the outputs, (1, O), in equal parts, one per thread, and then the remainder."""
    outputs, inputs = weight_OxI.shape
    even = outputs // threads * threads
    weight_PxIxO = weight_OxI[:even].view(threads, even // threads, inputs).transpose(1, 2)
    y_1xO = torch.bmm(x_1xI.expand(threads, 1, inputs), weight_PxIxO).view(1, even)
    if even == outputs:
        return y_1xO
    return torch.cat((y_1xO, F.linear(x_1xI, weight_OxI[even:])), dim=-1)


@contextlib.contextmanager
def fast_linears(net: nn.Module) -> Iterator[None]:
    """Compute the net's linear layers with `cpu_linear` inside the block, if it is on a CPU."""
    layers = [m for m in net.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    for layer in layers:
        layer.forward = partial(cpu_linear, layer)  # type: ignore[method-assign]  # this instance only
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights: integers from -127 to 127 and one scale per output.

    The kernel takes its inputs in bfloat16.
    """

    integers_OxI: Tensor
    scale_O: Tensor
    ones_O: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight_OxI = layer.weight.detach().float()
        scale_O = weight_OxI.abs().amax(dim=1).clamp(min=1e-12) / 127
        integers_OxI = (weight_OxI / scale_O[:, None]).round().to(torch.int8)
        self.padding = -integers_OxI.shape[1] % KERNEL_WIDTH
        self.register_buffer("integers_OxI", F.pad(integers_OxI, (0, self.padding)))
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("ones_O", torch.ones(len(scale_O), dtype=torch.bfloat16))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = F.pad(x.reshape(-1, x.shape[-1]).bfloat16(), (0, self.padding))
        y = torch._weight_int8pack_mm(rows, self.integers_OxI, self.ones_O).float() * self.scale_O
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class BFloat16Linear(nn.Module):
    """A linear layer with bfloat16 weights; everything between the layers stays in float32."""

    weight_OxI: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.register_buffer("weight_OxI", layer.weight.detach().bfloat16())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.bfloat16(), self.weight_OxI).float()
        return y if self.bias is None else y + self.bias


QUANTIZED_LINEARS: dict[str, type[nn.Module]] = {"bfloat16": BFloat16Linear, "int8": Int8Linear}


def load_on_device(path: Path, device: str, weight_dtype: str = "float32") -> LoadedModel:
    """Load a checkpoint or pretrained weights to generate with; raise UserError."""
    model = load_model(path)
    quantize_linears(model.net.to(device), weight_dtype)
    return model


def quantize_linears(net: nn.Module, weight_dtype: str) -> None:
    """Replace the net's linear layers, in place, by quantized ones; `float32` does nothing.

    The net can then only generate. Raises UserError if the device does not support the layers.
    """
    device = next(net.parameters()).device.type
    if weight_dtype == "int8" and device != "cpu":
        raise UserError(
            f"weight_dtype=int8: runs only on a CPU, not on {device}; add accelerator=cpu"
        )
    if weight_dtype == "int8" and not hasattr(torch, "_weight_int8pack_mm"):  # private
        raise UserError("weight_dtype=int8: this torch has no such kernel; try bfloat16")
    if weight_dtype in QUANTIZED_LINEARS:
        linears = [(name, m) for name, m in net.named_modules() if type(m) is nn.Linear]
        for name, layer in linears:
            net.set_submodule(name, QUANTIZED_LINEARS[weight_dtype](layer))
