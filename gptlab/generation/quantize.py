"""Matrix products for a few rows at a time, as writing has them, on a CPU.

The product of one token with a weight matrix takes as long as reading the matrix. `F.linear` reads
with one thread there, and for two to eight rows in an order that takes twice as long as another
(docs/speed.md). Same numbers but for rounding; and weights in eight bits, of which there is less
to read.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.utils.errors import UserError

MAX_ROWS = 8  # rows
VECTOR = 32  # numbers that the kernel for eight bits reads at once, beyond a row's end too
MIN_WEIGHTS = 2**18  # numbers of a matrix; smaller ones stay near the processor anyway


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, the reading of the weights shared by all threads."""
    weight_OxI, rows = layer.weight, x.shape[:-1].numel()
    if rows > MAX_ROWS or weight_OxI.numel() < MIN_WEIGHTS:
        return F.linear(x, weight_OxI, layer.bias)
    if rows > 1:
        y_NxO = (weight_OxI @ x.reshape(rows, -1).T).T
    else:
        y_NxO = threaded_linear(x.reshape(1, -1), weight_OxI, torch.get_num_threads())
    y = y_NxO.reshape(*x.shape[:-1], -1)
    return y if layer.bias is None else y + layer.bias


def threaded_linear(x_1xI: Tensor, weight_OxI: Tensor, parts: int) -> Tensor:
    """(1, O): the outputs in equal parts, a thread each, and the few that are left over."""
    outputs, inputs = weight_OxI.shape
    even = outputs // parts * parts
    weight_PxIxO = weight_OxI[:even].view(parts, even // parts, inputs).transpose(1, 2)
    y_1xO = torch.bmm(x_1xI.expand(parts, 1, inputs), weight_PxIxO).view(1, even)
    if even == outputs:
        return y_1xO
    return torch.cat((y_1xO, F.linear(x_1xI, weight_OxI[even:])), dim=-1)


@contextlib.contextmanager
def fast_linears(net: nn.Module) -> Iterator[None]:
    """Within, the net's linear layers are computed so, if it is on a CPU."""
    layers = [m for m in net.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    for layer in layers:
        layer.forward = partial(linear, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class Int8Linear(nn.Module):
    """A linear layer with its weights in eight bits: of each output, whole numbers from -127 to
    127 times one scale. Inputs are rounded to bfloat16, which is what the kernel takes."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight_OxI = layer.weight.detach().float()
        scale_O = weight_OxI.abs().amax(dim=1).clamp(min=1e-12) / 127
        whole_OxI = (weight_OxI / scale_O[:, None]).round().to(torch.int8)
        self.padding = -whole_OxI.shape[1] % VECTOR
        self.register_buffer("whole_OxI", F.pad(whole_OxI, (0, self.padding)))
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("one_O", torch.ones(len(scale_O), dtype=torch.bfloat16))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = F.pad(x.reshape(-1, x.shape[-1]).bfloat16(), (0, self.padding))
        y = torch._weight_int8pack_mm(rows, self.whole_OxI, self.one_O).float() * self.scale_O
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class BFloat16Linear(nn.Module):
    """A linear layer with its weights in bfloat16. All between the layers stays in float32."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.register_buffer("weight_OxI", layer.weight.detach().bfloat16())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.bfloat16(), self.weight_OxI).float()
        return y if self.bias is None else y + self.bias


QUANTIZED_LINEARS = {"bfloat16": BFloat16Linear, "int8": Int8Linear}


def quantize_linears(net: nn.Module, weights: str) -> None:
    """Gives the linear layers, in place and for writing alone, weights of another kind.

    Raises UserError for a device that cannot have them.
    """
    device = next(net.parameters()).device.type
    if weights == "int8" and device != "cpu":
        raise UserError(f"weights=int8: is for a CPU, and this is {device}; see accelerator=")
    if weights in QUANTIZED_LINEARS:
        layers = [(m, n, c) for m in net.modules() for n, c in m.named_children()]
        for parent, name, child in layers:
            if type(child) is nn.Linear:
                setattr(parent, name, QUANTIZED_LINEARS[weights](child))
