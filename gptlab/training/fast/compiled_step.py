"""Compile forward and backward pass of a micro-batch as one graph. Optional, for one CPU process.

`torch.compile(net)` makes two graphs, one per pass, and autograd's bookkeeping between them costs a
small model more than it saves. Here the gradient is a *function* of the weights
(`torch.func.grad_and_value`), traced into one graph from token ids to all gradients and their norm.
Eager attention then beats the fused kernel on short windows, because the compiler fuses softmax,
mask and scaling with their neighbors.

The gradients end up in `.grad`, as after `loss.backward()`, so clipping, optimizer, schedule,
accumulation, callbacks and checkpoints are the same. `trainer.compile=false` turns it off.
"""

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.fx import GraphModule

from gptlab.config.keys import plugin_references
from gptlab.config.schema import TrainerConfig
from gptlab.model import layers, loss
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.run_plan import RunPlan
from gptlab.utils.console import print_status, report_compile_failure
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError, is_out_of_memory
from gptlab.utils.system import cpu_name, rename

EAGER_ATTENTION_LIMIT = 128  # tokens; the fused kernel is faster on longer windows


def resolve_compile_mode(trainer: TrainerConfig, plan: RunPlan, net: GPT) -> str:
    """Return false, model or step; raises UserError if step is unavailable here.

    `auto` depends on the plan and not on a measurement, so that the same command always computes
    the same bits.
    """
    mode = str(trainer.compile).lower()
    one_cpu = trainer.devices * trainer.num_nodes == 1 and plan.accelerator == "cpu"
    possible = one_cpu and plan.precision in ("32-true", "bf16-mixed")
    if mode == "step" and not possible:
        raise UserError(
            "trainer.compile=step needs one process on a CPU and trainer.precision=32-true or "
            "bf16-mixed (try trainer.compile=model)"
        )
    if mode == "model" and plan.accelerator == "mps":
        plan.notes.append("not compiled: on an Apple GPU, torch.compile slows training down")
        return "false"
    if mode != "auto":
        return mode
    # A part of another package may do what one graph cannot repeat.
    possible = possible and not plan.variable_length and not plugin_references(plan.model)
    possible = possible and has_mac_compiler()
    return "step" if possible and is_compilation_worthwhile(plan, net) else "false"


def has_mac_compiler() -> bool:
    """Whether a Mac has a compiler: without one, asking for it opens a window. True elsewhere."""
    if platform.system() != "Darwin":
        return True
    return subprocess.run(["xcode-select", "-p"], capture_output=True).returncode == 0


def is_compilation_worthwhile(plan: RunPlan, net: GPT) -> bool:
    """Whether the graph saves more time than its compilation takes.

    The numbers were measured on two cores at 2 × 10¹¹ operations a second (docs/speed.md); on a
    faster machine both sides shrink.
    """
    n_layer = plan.model.n_layer
    operations = 6 * count_parameters(net) * plan.shape.batch_size * plan.row_tokens
    seconds_saved = 0.001 * n_layer + 0.025 * operations / 1e11  # per micro-batch
    compile_seconds = 10 + 4 * n_layer
    return plan.steps * plan.shape.accumulate * seconds_saved > 1.25 * compile_seconds


class CompiledStep:
    """Replace the net's forward and backward pass in training on a CPU.

    Args:
        net: gradients are computed for its trainable parameters.
        precision: `32-true` or `bf16-mixed`, as for Lightning's Trainer.
    """

    def __init__(self, net: GPT, precision: str = "32-true"):
        self.net = net
        self.precision = precision
        parameters = dict(net.named_parameters())
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        # Frozen tensors are inputs too, or they would be constants in the machine code.
        tensors = parameters | dict(net.named_buffers())
        frozen = {name: tensor for name, tensor in tensors.items() if name not in trained}
        self.trained_names, self.frozen_names = list(trained), list(frozen)
        self.parameters, self.frozen = list(trained.values()), list(frozen.values())
        self.shape: torch.Size | None = None  # (B, T) of the graph; None: not compiled

    def compile(self, source_BxT: Tensor, target_BxT: Tensor) -> None:
        """Compile for batches of this shape; print why if that fails.

        With dropout, this draws from the random generator.
        """
        try:
            self.compile_or_raise(source_BxT, target_BxT)
        except Exception as error:  # a compiler may raise anything
            if is_out_of_memory(error):
                raise
            report_compile_failure(error)

    def compile_or_raise(self, source_BxT: Tensor, target_BxT: Tensor) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        assert self.net.training, "call net.train() before compiling"
        inputs = [*self.parameters, *self.frozen, source_BxT, target_BxT, self.as_tensor(1.0)]
        with torch.no_grad(), compiler_friendly(self.net, source_BxT.shape[1]):
            trace = make_fx(
                lambda *args: self.gradients(*args),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )
            # Not torch.compile, whose guards would check at each call what `matches` checks.
            self.compiled = load_or_compile(trace(*inputs), inputs)
        self.shape = source_BxT.shape

    def as_tensor(self, number: float) -> Tensor:
        """Return a tensor: a Python number would become a constant of the graph."""
        return torch.tensor(number, dtype=self.parameters[0].dtype)

    def matches(self, source_BxT: Tensor) -> bool:
        """Whether the graph is for batches of this shape."""
        return source_BxT.shape == self.shape

    def gradients(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of nats · scale, their norm, and the nats; traced by `compile`.

        Inputs: trained tensors, frozen tensors, source, target, scale.
        """
        *weights, source_BxT, target_BxT, scale = inputs
        trained, frozen = weights[: len(self.trained_names)], weights[len(self.trained_names) :]
        frozen_by_name = dict(zip(self.frozen_names, frozen, strict=True))

        def scaled_nats(trained: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            by_name = frozen_by_name | dict(zip(self.trained_names, trained, strict=True))
            with autocast(self.precision, "cpu"):
                nats = functional_call(self.net, by_name, (source_BxT, target_BxT))
            return nats * scale, nats

        gradients, (_, nats) = grad_and_value(scaled_nats, has_aux=True)(trained)
        # The fused optimizer assumes that a gradient has the memory layout of its weight.
        gradients = [gradient.contiguous() for gradient in gradients]
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        return *gradients, norm, nats

    def __call__(
        self, source_BxT: Tensor, target_BxT: Tensor, scale: float, accumulate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Set or accumulate `.grad` for nats · scale; return the nats and the gradient's norm."""
        with torch.no_grad():
            *gradients, norm, nats = self.compiled(
                [*self.parameters, *self.frozen, source_BxT, target_BxT, self.as_tensor(scale)]
            )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if accumulate and parameter.grad is not None:
                parameter.grad += gradient
            else:
                parameter.grad = gradient
        return nats, norm


@contextlib.contextmanager
def compiler_friendly(net: GPT, tokens: int) -> Iterator[None]:
    """Make the net compute in the way that compiles best; results differ by rounding only.

    Attention is eager on short windows (but not with dropout, for which the fused kernel draws its
    own random numbers), and the loss leaves memory to the compiler.
    """
    attentions: list[Any] = [block.attention for block in net.blocks]
    replaceable = net.config.attention in layers.ATTENTIONS and not net.config.attention_dropout
    if tokens > EAGER_ATTENTION_LIMIT or not replaceable:
        attentions = []
    originals = [attention.attend for attention in attentions]
    for attention in attentions:
        attention.attend = layers.eager_attention
    original_log_softmax = loss.head_log_softmax
    loss.head_log_softmax = loss.traced_head_log_softmax  # type: ignore[assignment]  # same types
    try:
        yield
    finally:
        loss.head_log_softmax = original_log_softmax
        for attention, attend in zip(attentions, originals, strict=True):
            attention.attend = attend


CompiledFunction = Callable[[list[Tensor]], list[Tensor]]


def load_or_compile(traced: GraphModule, inputs: list[Tensor]) -> CompiledFunction:
    """Return the graph as a CPU function, from the cache or compiled now."""
    import torch._inductor.config
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cached = Path(cache_dir()) / "gptlab" / f"{graph_key(traced, inputs)}.so"
    if cached.exists():
        with contextlib.suppress(RuntimeError):  # damaged: compile it again
            return load_library(cached)
    print_status("compiling forward and backward pass as one graph: up to a minute, only once")
    library = str(torch._inductor.aot_compile(traced, tuple(inputs)))
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Rename a complete copy: another process may be compiling the same graph.
    partial = cached.with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(library, partial)
        rename(partial, cached)
    finally:
        partial.unlink(missing_ok=True)
    return load_library(cached)


def load_library(library: Path) -> CompiledFunction:
    """Load a compiled graph in a millisecond; raises RuntimeError if the file is damaged.

    The public aoti_load_package takes more than a second, most of it to import the compiler.
    """
    runner: Any = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
    return runner.run


def graph_key(traced: GraphModule, inputs: Sequence[Tensor]) -> str:
    """Hash everything that the machine code depends on: the graph, its constants, the layout of its
    inputs, the compiler and its settings, the machine."""
    layouts = [(tuple(x.shape), x.stride(), str(x.dtype)) for x in inputs]
    settings = torch._inductor.config.get_hash().hex()
    machine = cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    digest = sha256(repr((traced.code, layouts, torch.__version__, settings, machine)).encode())
    for name, constant in sorted(traced.named_buffers()):
        digest.update(repr((name, tuple(constant.shape), str(constant.dtype))).encode())
        digest.update(constant.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
