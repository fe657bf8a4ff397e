"""Resolve `auto` device and precision; measure memory; seed one device."""

import math

import psutil
import torch

from gptlab.utils.errors import UserError
from gptlab.utils.system import container_memory_limit

# An Apple GPU takes 25 to 110 µs per operation of torch, whatever its size
# (github.com/pytorch/pytorch/issues/82707), so about 15 ms for a step of a small GPT. Below this
# many floating-point operations a call, a CPU takes no longer (docs/platforms.md).
MIN_MPS_OPERATIONS = 1e10


def mps_is_available() -> bool:
    return torch.backends.mps.is_available()


def resolve_accelerator(
    name: str, key: str = "trainer.accelerator", operations: float = math.inf
) -> str:
    """Return cuda, mps or cpu; raise UserError if this machine lacks the named device.

    `operations`: floating-point operations a call; auto uses an Apple GPU only for many.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": mps_is_available()}
    if name == "auto" and operations < MIN_MPS_OPERATIONS:
        available["mps"] = False
    gpus = [gpu for gpu in available if available[gpu]]
    devices = gpus if name == "gpu" else [d for d in (*gpus, "cpu") if name in (d, "auto")]
    if not devices:
        raise UserError(f"{key}={name}: torch finds no such device on this machine; try {key}=auto")
    return devices[0]


def resolve_precision(name: str, accelerator: str) -> str:
    """Resolve `auto` to bf16-mixed on a CUDA device that supports it, otherwise to 32-true."""
    if name == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision=16-mixed needs a GPU; use bf16-mixed on a CPU")
    if name == "16-mixed" and accelerator == "mps":
        raise UserError("trainer.precision=16-mixed needs CUDA; use 32-true on an Apple GPU")
    if name != "auto":
        return name
    fast = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if fast else "32-true"


def autocast(precision: str, device: str) -> torch.autocast:
    """Return the context of Lightning's `…-mixed` precision; disabled for any other."""
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device, dtype=half, enabled=half is not None)


def resident_memory() -> int:
    """Return the bytes of memory that this process uses now."""
    return psutil.Process().memory_info().rss


def available_memory(device: str) -> int:
    """Return the bytes that this process could use, including its present use."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    free = psutil.virtual_memory().available + resident_memory()
    return min(free, container_memory_limit() or free)


def seed_device(number: int, device: str) -> None:
    """Seed the CPU and one device, as `torch.manual_seed` does for all devices.

    `torch.manual_seed` formats a stack trace for each kind of device not in use: half a
    millisecond, which is long compared with a small model's step.
    """
    torch.default_generator.manual_seed(number)
    if device == "cuda":
        torch.cuda.manual_seed(number)
    elif device == "mps":
        torch.mps.manual_seed(number)
