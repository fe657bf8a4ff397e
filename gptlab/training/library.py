"""Traced graphs as machine code, kept: compiled once on a machine, loaded in a millisecond after.

PyTorch keeps compiled graphs too, but before it finds one it imports its compiler and lowers the
graph again: two seconds. Here a graph is known by its own text, so nothing else can be loaded in
its place, and the library runs without the compiler.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
import torch._inductor.config
from torch import Tensor
from torch.fx import GraphModule

from gptlab.files import say
from gptlab.training.summary import processor

Function = Callable[[Sequence[Tensor]], list[Tensor]]


def compiled(traced: GraphModule, inputs: Sequence[Tensor]) -> Function:
    """The graph as a function of such inputs, on a CPU: from the library, or compiled now.

    Raises what the compiler raises: TorchDynamoException, OSError.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    kept = Path(cache_dir()) / "gptlab" / f"{key(traced, inputs)}.so"
    if kept.exists():
        try:
            return load(kept)
        except RuntimeError:  # no library: it is made anew
            pass
    say("compiling forward and backward pass as one graph: up to a minute, the first time only")
    made = Path(torch._inductor.aot_compile(traced, tuple(inputs)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be doing the same: whole, under its name, or not there.
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(made, partial)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    return load(kept)


def load(library: Path) -> Function:
    """Raises RuntimeError where it is none."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run


def key(traced: GraphModule, inputs: Sequence[Tensor]) -> str:
    """A hash of all that decides what is compiled: the graph, its constants, what its inputs are
    like, the compiler and its settings, the machine."""
    like = [(tuple(x.shape), x.stride(), str(x.dtype)) for x in inputs]
    settings = torch._inductor.config.get_hash().hex()
    machine = processor(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    digest = sha256(repr((traced.code, like, torch.__version__, settings, machine)).encode())
    for name, constant in sorted(traced.named_buffers()):
        digest.update(repr((name, tuple(constant.shape), str(constant.dtype))).encode())
        digest.update(constant.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
