"""A device that computes like the CPU and, like Apple's GPU, knows no float64.

It is named `meta`, a device that every build of torch has. Tensors on it hold a tensor on the CPU.
Everything but float64 is computed, so results can be compared with the CPU's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"


class FakeTensor(torch.Tensor):
    """A tensor on the fake device."""

    cpu_tensor: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, cpu_tensor: torch.Tensor) -> "FakeTensor":
        if cpu_tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError("this device does not support float64")
        layout = {"strides": cpu_tensor.stride(), "dtype": cpu_tensor.dtype, "device": NAME}
        tensor = torch.Tensor._make_wrapper_subclass(cls, cpu_tensor.shape, **layout)
        tensor.cpu_tensor = cpu_tensor
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        return compute(operation, arguments, keywords or {})


def compute(operation: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
    """Compute an operation on the CPU; its results are on the device of its inputs."""
    fakes = [t for t in tree_leaves((arguments, keywords)) if isinstance(t, FakeTensor)]
    on_device = bool(fakes)
    if keywords.get("device") is not None:
        on_device = torch.device(keywords["device"]).type == NAME
        keywords = keywords | {"device": "cpu"}
    inputs = tree_map(lambda t: t.cpu_tensor if isinstance(t, FakeTensor) else t, arguments)
    named = tree_map(lambda t: t.cpu_tensor if isinstance(t, FakeTensor) else t, keywords)
    results = operation(*inputs, **named)

    def put_on_device(result: Any) -> Any:
        if not isinstance(result, torch.Tensor):
            return result
        same = [fake for fake in fakes if fake.cpu_tensor is result]  # changed in place
        return same[0] if same else FakeTensor(result) if on_device else result

    return tree_map(put_on_device, results)


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        return compute(operation, arguments, keywords or {})


class Conversions(TorchFunctionMode):
    """What does not go through Dispatch: torch.tensor, as_tensor, tolist, lists as indices."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        if function is torch.Tensor.tolist:
            return arguments[0].cpu().tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            tensor, index, *value = arguments
            parts = index if isinstance(index, tuple) else (index,)
            parts = tuple(torch.tensor(p).long() if isinstance(p, list) else p for p in parts)
            arguments = (tensor, parts, *value)
        makes = function in (torch.tensor, torch.as_tensor)
        device = keywords.pop("device", None) if makes else None
        result = function(*arguments, **keywords)
        return result if device is None else result.to(device)


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, Dispatch(), Conversions():
        patch.setattr(torch, "is_autocast_enabled", lambda _: False)
        patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
        # Tensors that hold others cannot be made in inference mode.
        patch.setattr(torch._C, "_InferenceMode", lambda _: torch.no_grad())
        yield
