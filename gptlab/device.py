"""Which device and which precision `auto` means here."""

import torch

from gptlab.errors import UserError


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
