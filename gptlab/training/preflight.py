"""Is everything in order? Checked before the first step: what a run can be ruined by."""

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.data.sequences import IGNORE_INDEX, RecordSequences
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.fast.compiled_step import CompiledStep
from gptlab.training.optim import optimizer_values_per_weight
from gptlab.training.run_plan import RunPlan
from gptlab.utils.device import autocast, available_memory, resident_memory
from gptlab.utils.errors import UserError

FIRST_LOSS_MARGIN = (
    1.0  # nats above ln(vocabulary) from which the initial weights are called too wide
)
PROBE_TOKENS = 16  # tokens of the row on which leaks are looked for
OVERFIT_STEPS = 100


@dataclass
class Check:
    """What was looked at, what was found, and whether that is as it should be."""

    name: str
    found: str
    good: bool = True

    def __str__(self) -> str:
        return f"  {'ok  ' if self.good else 'LOOK'}  {self.name}: {self.found}"


@dataclass
class PreflightReport:
    """All checks, and what the run will need."""

    checks: list[Check]
    seconds: float  # a step
    memory: int  # bytes


def run_preflight(
    net: GPT,
    data: TextDataModule,
    plan: RunPlan,
    fresh: bool,
    thorough: bool,
    graph: CompiledStep | None = None,
) -> PreflightReport:
    """Looks at net, device and data before the first step; the weights stay as they are.

    Compiles the graph, if there is to be one.

    Raises UserError for what would ruin the run.
    """
    batch = TrainingBatches(data.windows, data.shape)[data.first]
    source, target = (batch[name].to(plan.accelerator) for name in ("input", "target"))
    net.to(plan.accelerator)
    checks = [check_causality(net, source[0]), check_split_overlap(data.corpus)]
    row_1xT = longest_row(data).to(plan.accelerator) if plan.varying else source[:1]
    memory = estimate_memory(net, row_1xT, plan)
    check_memory(memory, plan.accelerator)
    if on_device := check_device(net, source[:1], target[:1], plan):
        checks.append(on_device)
    net.to(plan.accelerator).train()
    if graph:
        graph.compile(source, target)
    seconds, loss = time_step(net, source, target, plan, graph)
    if fresh:
        checks.insert(0, check_first_loss(loss, net.head.out_features))
    if thorough:
        checks.append(check_overfitting(net, source, target))
    net.to("cpu")
    return PreflightReport(checks, seconds, memory)


def longest_row(data: TextDataModule) -> Tensor:
    """(1, T), of the records that are trained on."""
    windows = data.windows
    assert isinstance(windows, RecordSequences)
    longest = windows.tokens_of(np.arange(len(windows))).argmax()
    return windows.read_documents(np.array([longest]))[0]


def time_step(
    net: GPT, source: Tensor, target: Tensor, plan: RunPlan, graph: CompiledStep | None
) -> tuple[float, float]:
    """Seconds an optimizer step, and its loss: from a micro-batch, forward and backward, after a
    first one that warms up (and compiles). The gradients are thrown away and no weight moves.
    """
    for _ in range(2):
        began = time.perf_counter()
        if graph and graph.matches(source):
            loss, _ = graph(source, target, 1.0)
        else:
            with autocast(plan.precision, plan.accelerator):
                loss = net(source, target)
            loss.backward()
        nats = float(loss.detach())  # waits until the device is done
        seconds = time.perf_counter() - began
        net.zero_grad(set_to_none=True)
        if seconds > 2 and net._compiled_call_impl is None:
            break  # so slow that warming up makes no difference
    return seconds * plan.shape.accumulate, nats / max(1, int((target != IGNORE_INDEX).sum()))


def check_first_loss(loss: float, vocabulary: int) -> Check:
    """A model that knows nothing gives every token the same probability."""
    chance = math.log(vocabulary)
    return Check(
        "first loss",
        f"{loss:.3f} nats a token, ln(vocabulary) is {chance:.3f}",
        loss < chance + FIRST_LOSS_MARGIN,
    )


def check_causality(net: GPT, row_T: Tensor) -> Check:
    """No output may depend on a later token; exact: the gradient is zero or it is not."""
    row = row_T[:PROBE_TOKENS][None]
    half = row.shape[1] // 2
    x = net.embed(row).detach().requires_grad_()
    was_training = net.training
    net.eval()
    # Weighted, for the plain sum of what a norm gives is the same whatever it reads.
    weights = torch.linspace(1, 2, net.config.d_model, device=row.device)
    (net.forward_blocks(x)[0, half] * weights).sum().backward()
    net.train(was_training)
    net.zero_grad(set_to_none=True)
    leaked = bool((x.grad[0, half + 1 :] != 0).any())
    wanted = net.config.let_attention_see_the_future
    if leaked and not wanted:
        raise UserError(
            "the model sees the future: an output changes with tokens that come after it; its "
            "loss would mean nothing. Look for a missing mask in what you changed"
        )
    return Check("no gradient from the future", "LEAKS, as asked" if leaked else "none", not leaked)


def check_split_overlap(corpus: Corpus) -> Check:
    count = corpus.meta["duplicates_across_splits"]
    return Check(
        "splits do not overlap",
        f"{count:,} held-out documents also stand in the training text",
        not count,
    )


def check_overfitting(net: GPT, source_BxT: Tensor, target_BxT: Tensor) -> Check:
    """One batch must be learnt by heart, or the gradient does not reach the weights."""
    probe = copy.deepcopy(net).train()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(OVERFIT_STEPS):
        logits = probe(source_BxT)
        loss = summed_cross_entropy(logits, target_BxT) / (target_BxT != IGNORE_INDEX).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    words = f"from {losses[0]:.3f} to {losses[-1]:.3f} nats a token in {OVERFIT_STEPS} steps"
    return Check("one batch can be overfitted", words, losses[-1] < losses[0] / 2)


def check_device(net: GPT, source_1xT: Tensor, target_1xT: Tensor, plan: RunPlan) -> Check | None:
    """The loss on the run's device, in its precision, against float32 on the CPU.

    Raises UserError where they are more than one per cent apart: such a device computes wrongly
    without an error. None where there is nothing to compare.
    """
    if plan.accelerator == "cpu" and plan.precision == "32-true":
        return None
    losses = []
    was_training = net.training
    net.eval()
    for place, precision in ((plan.accelerator, plan.precision), ("cpu", "32-true")):
        net.to(place)
        with torch.no_grad(), autocast(precision, place):
            losses.append(
                float(summed_cross_entropy(net(source_1xT.to(place)), target_1xT.to(place)))
            )
    net.train(was_training)
    off = abs(losses[0] / losses[1] - 1)
    if not off <= 0.01:
        raise UserError(
            f"trainer.accelerator={plan.accelerator}: computes a loss that is {off:.1%} off the "
            f"CPU's; take another trainer.precision than {plan.precision}, another torch, or "
            "trainer.accelerator=cpu"
        )
    return Check("device", f"{plan.accelerator} {plan.precision} agrees with the CPU to {off:.2%}")


ALLOCATOR_OVERHEAD = 1.15  # what malloc keeps of freed blocks, measured on six models (1.05 to 1.3)


def estimate_memory(net: GPT, source_1xT: Tensor, plan: RunPlan) -> int:
    """Bytes at the peak of a training step, on the device where the net is.

    What autograd keeps of the blocks' forward pass is counted on one row and multiplied by the
    rows of a micro-batch; the sizes of all else follow from the configuration. On a CPU what the
    process holds already is part of it.
    """
    device = source_1xT.device
    rows, tokens = plan.shape.batch_size, plan.shape.batch_size * plan.row_tokens
    kept = saved_bytes(net, source_1xT, plan.precision) * rows
    wide = 2 if plan.precision == "bf16-true" else 4
    parameters = count_parameters(net)
    gradients, state = (
        parameters * wide,
        optimizer_values_per_weight(plan.optim) * parameters * wide,
    )
    loss = head_bytes(net, tokens, wide, plan.compile == "step")
    before = gradients if plan.shape.accumulate > 1 else 0  # those of the micro-batches before
    # The optimizer, while it acts, holds as much again as one of its states.
    peak = max(before + kept + loss, 2 * gradients)
    if device.type != "cpu":
        return sum(p.numel() for p in net.parameters()) * wide + state + peak
    return round(
        (resident_memory() + state + peak) * ALLOCATOR_OVERHEAD
    )  # the weights are held already


def head_bytes(net: GPT, tokens: int, wide: int, graph: bool) -> int:
    """Of the head and its loss: the logits, their logarithms and two gradients; or these for a
    chunk, once and in the half precision of autocast, and the gradients of the head's weights and
    of its input. In a graph the weights' gradient comes last, and all chunks are held until then.
    """
    logits = tokens * net.head.out_features
    if logits <= net.max_logits:
        return 4 * logits * wide
    weights = net.head.weight.numel()
    held = logits if graph else net.max_logits
    return (net.max_logits + held + 2 * weights + tokens * net.config.d_model) * wide


def saved_bytes(net: GPT, source: Tensor, precision: str) -> int:
    """What autograd keeps of these rows for the blocks' backward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), autocast(precision, source.device.type):
        x_BxTxD = net.hidden(source)
    del x_BxTxD  # alive until here, or storages would share addresses
    return sum(kept.values())


def check_memory(needed: int, device: str) -> None:
    """Raises UserError where the run cannot fit."""
    there = available_memory(device)
    if there is not None and needed > there:
        raise UserError(
            f"this run needs about {needed / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB are to "
            "be had; take a smaller data.batch_size (with trainer.tokens_per_step the result is "
            "the same), model.context_length or model"
        )
