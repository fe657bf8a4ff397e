"""Which device and which precision `auto` means here, and how much memory there is."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

import torch

from gptlab.utils.errors import UserError


def resolve_accelerator(wanted: str, key: str = "trainer.accelerator") -> str:
    """cuda, mps or cpu; raises UserError where the wanted one is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted in ("auto", "gpu"):
        found = next(name for name, available in there.items() if available)
        if wanted == "auto" or found != "cpu":
            return found
        raise UserError(f"{key}=gpu: this machine has none that torch can use")
    if not there[wanted]:
        raise UserError(f"{key}={wanted}: torch finds no such device here; try auto")
    return wanted


def resolve_precision(wanted: str, accelerator: str) -> str:
    """`auto` is bfloat16 autocast on a CUDA device that has it, float32 elsewhere."""
    if wanted == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision=16-mixed: needs a GPU; on a CPU take bf16-mixed")
    if wanted != "auto":
        return wanted
    fast = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if fast else "32-true"


def autocast(precision: str, device: str) -> torch.autocast:
    """The context in which Lightning's `…-mixed` precision computes; with any other, none."""
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device, dtype=half, enabled=half is not None)


def resident_memory() -> int:
    """Bytes that this process holds now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return 0


def available_memory(device: str) -> int | None:
    """Bytes that this process could have, what it holds included; None where nobody tells."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        limits.append(found["MemAvailable"] * 1024 + resident_memory())
    except (OSError, ValueError, KeyError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no limit, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def seed_device(number: int, device: str) -> None:
    """What `torch.manual_seed` does, for the CPU and one device alone.

    That function formats the stack for every kind of device that is not in use: half a
    millisecond, which is much beside the step of a small model.
    """
    torch.default_generator.manual_seed(number)
    if device == "cuda":
        torch.cuda.manual_seed(number)
    elif device == "mps":
        torch.mps.manual_seed(number)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep what is freed, for the next step to use; elsewhere it does nothing.

    Otherwise large blocks go back to the system when they are freed, and each step gets them anew
    and filled with zeros, page by page: a tenth of a step, or more (docs/speed.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
