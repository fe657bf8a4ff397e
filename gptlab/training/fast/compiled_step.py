"""Forward and backward pass of a micro-batch as one compiled graph.

`torch.compile(net)` makes two graphs, one of each pass, and between them autograd keeps its books:
for a small model that costs more than it saves. Here the gradient is a *function* of the weights
(`torch.func.grad_and_value`), and that function is traced into one graph, from token ids to all
gradients and their norm, and compiled as one. Written-out attention then beats the fused kernel
on short windows, because softmax, mask and scaling melt into their neighbours.

The graph gives the gradients to `.grad`, as `loss.backward()` does. Clipping, optimizer, schedule,
accumulation, callbacks and checkpoints do not know the difference. `trainer.compile=false` is
without it.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import torch
import torch._inductor.config
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.fx import GraphModule

from gptlab.config.schema import TrainerConfig
from gptlab.model import layers, loss
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.run_plan import RunPlan
from gptlab.training.run_summary import cpu_name
from gptlab.utils.console import print_status
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError, resolve_choice

EAGER_ATTENTION_LIMIT = 128  # tokens

COMPILE_MODES = {
    "auto": "step where it pays, on a CPU",
    "false": "nothing is compiled",
    "model": "torch.compile of the model, on any device",
    "step": "forward and backward pass as one graph, on one CPU",
}


def check_compile_mode(trainer: TrainerConfig, accelerator: str, precision: str) -> str:
    """The mode that trainer.compile names; raises UserError where it is none, or not for here."""
    mode = str(trainer.compile).lower()
    resolve_choice("trainer.compile", mode, COMPILE_MODES)
    if mode == "step" and not step_can_compile(trainer, accelerator, precision):
        raise UserError(
            "trainer.compile=step: is for one process on a CPU, in 32-true or bf16-mixed; here "
            "trainer.compile=model can do"
        )
    return mode


def step_can_compile(trainer: TrainerConfig, accelerator: str, precision: str) -> bool:
    alone = trainer.devices * trainer.num_nodes == 1
    return accelerator == "cpu" and alone and precision in ("32-true", "bf16-mixed")


def resolve_compile_mode(trainer: TrainerConfig, plan: RunPlan, net: GPT) -> str:
    """`auto` decided by what the run has planned: by nothing measured, so that the same command
    computes the same bits each time."""
    mode = check_compile_mode(trainer, plan.accelerator, plan.precision)
    if mode != "auto":
        return mode
    here = step_can_compile(trainer, plan.accelerator, plan.precision) and not plan.varying
    return "step" if here and compiling_pays(plan, net) else "false"


def compiling_pays(plan: RunPlan, net: GPT) -> bool:
    """Whether the graph saves more than compiling costs the first time.

    By what was measured on two cores at 2 × 10¹¹ operations a second (docs/speed.md); on a faster
    machine both shrink.
    """
    layers = plan.model.n_layer
    operations = 6 * count_parameters(net) * plan.shape.batch_size * plan.row_tokens
    saved = 0.001 * layers + 0.025 * operations / 1e11  # seconds a micro-batch
    return plan.steps * plan.shape.accumulate * saved > 1.25 * (10 + 4 * layers)


class CompiledStep:
    """Calls are like forward and backward pass of the net in training, on a CPU.

    Args:
        net: its trainable parameters are what gradients are of.
        precision: as for Lightning's Trainer, `32-true` or `bf16-mixed`.
    """

    def __init__(self, net: GPT, precision: str = "32-true"):
        self.net = net
        self.precision = precision
        named = dict(net.named_parameters())
        trained = {name: p for name, p in named.items() if p.requires_grad}
        # Inputs too, or they would be written into the machine code.
        still = {
            name: t for name, t in [*named.items(), *net.named_buffers()] if name not in trained
        }
        self.names, self.still_names = list(trained), list(still)
        self.parameters, self.still = list(trained.values()), list(still.values())
        self.shape: torch.Size | None = None  # (B, T) that the graph is of; None: not compiled

    def compile(self, source_BxT: Tensor, target_BxT: Tensor) -> None:
        """Compiles for batches of this shape, or says in one line why that cannot be.

        Changes nothing else, but that it draws from the generator where there is dropout.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            self.compile_or_raise(source_BxT, target_BxT)
        except (TorchDynamoException, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print_status(f"training is not compiled, which is slower but the same: {reason}")

    def compile_or_raise(self, source_BxT: Tensor, target_BxT: Tensor) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        assert self.net.training, "a graph is of the net in training"
        inputs = [*self.parameters, *self.still, source_BxT, target_BxT, self.scalar(1.0)]
        with torch.no_grad(), eager_attention_and_loss(self.net, source_BxT.shape[1]):
            trace = make_fx(
                lambda *inputs: self.gradients(*inputs),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )
            # Not torch.compile: each call would go through guards for what `fits` looks at.
            self.compiled = compile_or_load(trace(*inputs), inputs)
        self.shape = source_BxT.shape

    def scalar(self, number: float) -> Tensor:
        """A tensor, for a Python number would be compiled in."""
        return torch.tensor(number, dtype=self.parameters[0].dtype)

    def fits(self, source_BxT: Tensor) -> bool:
        return source_BxT.shape == self.shape

    def gradients(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What is traced: of what is trained, what stays still, source, target and scale, the
        gradients of nats · scale by each that is trained, their norm, and the nats."""
        *weights, source_BxT, target_BxT, scale = inputs
        parameters, rest = weights[: len(self.names)], weights[len(self.names) :]
        still = dict(zip(self.still_names, rest, strict=True))

        def scaled(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            weights = still | dict(zip(self.names, parameters, strict=True))
            with autocast(self.precision, "cpu"):
                nats = functional_call(self.net, weights, (source_BxT, target_BxT))
            return nats * scale, nats

        found, (_, nats) = grad_and_value(scaled, has_aux=True)(parameters)
        # The optimizer's fused kernel takes for granted that a gradient lies as its weight does.
        found = [g.contiguous() for g in found]
        norm = torch.stack([g.square().sum() for g in found]).sum().sqrt()
        return *found, norm, nats

    def __call__(
        self, source_BxT: Tensor, target_BxT: Tensor, scale: float, add: bool
    ) -> tuple[Tensor, Tensor]:
        """The batch's nats, and the norm of the gradient of nats · scale.

        The gradient goes to `.grad`: added to what is there, or in its place.
        """
        with torch.no_grad():
            *found, norm, nats = self.compiled(
                [*self.parameters, *self.still, source_BxT, target_BxT, self.scalar(scale)]
            )
        for parameter, gradient in zip(self.parameters, found, strict=True):
            if add:
                parameter.grad += gradient
            else:
                parameter.grad = gradient
        return nats, norm


@contextlib.contextmanager
def eager_attention_and_loss(net: GPT, tokens: int) -> Iterator[None]:
    """Within, short windows have their attention written out, and all the loss: the same but for
    rounding."""
    attentions = [block.attention for block in net.blocks]
    if (
        tokens > EAGER_ATTENTION_LIMIT or net.config.attention_dropout
    ):  # its draws are the kernel's own
        attentions = []
    before = [attention.attend for attention in attentions]
    for attention in attentions:
        attention.attend = layers.eager_attention
    by_parts, loss.head_log_softmax = loss.head_log_softmax, loss.traced_head_log_softmax
    try:
        yield
    finally:
        loss.head_log_softmax = by_parts
        for attention, attend in zip(attentions, before, strict=True):
            attention.attend = attend


CompiledFunction = Callable[[Sequence[Tensor]], list[Tensor]]


def compile_or_load(traced: GraphModule, inputs: Sequence[Tensor]) -> CompiledFunction:
    """The graph as a function of such inputs, on a CPU: from the library, or compiled now.

    Raises what the compiler raises: TorchDynamoException, OSError.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    kept = Path(cache_dir()) / "gptlab" / f"{graph_key(traced, inputs)}.so"
    if kept.exists():
        try:
            return load_library(kept)
        except RuntimeError:  # no library: it is made anew
            pass
    print_status(
        "compiling forward and backward pass as one graph: up to a minute, the first time only"
    )
    made = Path(torch._inductor.aot_compile(traced, tuple(inputs)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be doing the same: whole, under its name, or not there.
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(made, partial)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    return load_library(kept)


def load_library(library: Path) -> CompiledFunction:
    """Raises RuntimeError where it is none."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run


def graph_key(traced: GraphModule, inputs: Sequence[Tensor]) -> str:
    """A hash of all that decides what is compiled: the graph, its constants, what its inputs are
    like, the compiler and its settings, the machine."""
    like = [(tuple(x.shape), x.stride(), str(x.dtype)) for x in inputs]
    settings = torch._inductor.config.get_hash().hex()
    machine = cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    digest = sha256(repr((traced.code, like, torch.__version__, settings, machine)).encode())
    for name, constant in sorted(traced.named_buffers()):
        digest.update(repr((name, tuple(constant.shape), str(constant.dtype))).encode())
        digest.update(constant.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
