"""Is everything in order? Checked before the first step: what a run can be ruined by."""

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlab.data.corpus import Corpus
from gptlab.data.datamodule import TextData
from gptlab.data.loader import TrainingBatches
from gptlab.data.windows import IGNORED, Records
from gptlab.device import autocast
from gptlab.errors import UserError
from gptlab.model.gpt import GPT
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.graph import GradientGraph
from gptlab.training.memory import check as check_memory
from gptlab.training.memory import estimate
from gptlab.training.plan import Plan

WIDE = 1.0  # nats above ln(vocabulary) from which the initial weights are called too wide
PROBE = 16  # tokens of the row on which leaks are looked for
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
class Report:
    """All checks, and what the run will need."""

    checks: list[Check]
    seconds: float  # a step
    memory: int  # bytes


def examine(
    net: GPT,
    data: TextData,
    plan: Plan,
    fresh: bool,
    thorough: bool,
    graph: GradientGraph | None = None,
) -> Report:
    """Looks at net, device and data before the first step; the weights stay as they are.

    Compiles the graph, if there is to be one.

    Raises UserError for what would ruin the run.
    """
    batch = TrainingBatches(data.windows, data.shape)[data.first]
    source, target = (batch[name].to(plan.accelerator) for name in ("input", "target"))
    net.to(plan.accelerator)
    checks = [future(net, source[0]), splits(data.corpus)]
    row_1xT = longest_row(data).to(plan.accelerator) if plan.varying else source[:1]
    memory = estimate(net, row_1xT, plan)
    check_memory(memory, plan.accelerator)
    if on_device := device(net, source[:1], target[:1], plan):
        checks.append(on_device)
    net.to(plan.accelerator).train()
    if graph:
        graph.compile(source, target)
    seconds, loss = time_step(net, source, target, plan, graph)
    if fresh:
        checks.insert(0, first_loss(loss, net.head.out_features))
    if thorough:
        checks.append(overfit(net, source, target))
    net.to("cpu")
    return Report(checks, seconds, memory)


def longest_row(data: TextData) -> Tensor:
    """(1, T), of the records that are trained on."""
    windows = data.windows
    assert isinstance(windows, Records)
    longest = windows.tokens_of(np.arange(len(windows))).argmax()
    return windows.read_documents(np.array([longest]))[0]


def time_step(
    net: GPT, source: Tensor, target: Tensor, plan: Plan, graph: GradientGraph | None
) -> tuple[float, float]:
    """Seconds an optimizer step, and its loss: from a micro-batch, forward and backward, after a
    first one that warms up (and compiles). The gradients are thrown away and no weight moves.
    """
    for _ in range(2):
        began = time.perf_counter()
        if graph and graph.fits(source):
            loss, _ = graph(source, target, 1.0, add=False)
        else:
            with autocast(plan.precision, plan.accelerator):
                loss = net(source, target)
            loss.backward()
        nats = float(loss.detach())  # waits until the device is done
        seconds = time.perf_counter() - began
        net.zero_grad(set_to_none=True)
        if seconds > 2 and net._compiled_call_impl is None:
            break  # so slow that warming up makes no difference
    return seconds * plan.shape.accumulate, nats / max(1, int((target != IGNORED).sum()))


def first_loss(loss: float, vocabulary: int) -> Check:
    """A model that knows nothing gives every token the same probability."""
    chance = math.log(vocabulary)
    return Check(
        "first loss",
        f"{loss:.3f} nats a token, ln(vocabulary) is {chance:.3f}",
        loss < chance + WIDE,
    )


def future(net: GPT, row_T: Tensor) -> Check:
    """No output may depend on a later token; exact: the gradient is zero or it is not."""
    row = row_T[:PROBE][None]
    half = row.shape[1] // 2
    x = net.embed(row).detach().requires_grad_()
    was_training = net.training
    net.eval()
    # Weighted, for the plain sum of what a norm gives is the same whatever it reads.
    weights = torch.linspace(1, 2, net.config.d_model, device=row.device)
    (net.read(x)[0, half] * weights).sum().backward()
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


def splits(corpus: Corpus) -> Check:
    count = corpus.meta["duplicates_across_splits"]
    return Check(
        "splits do not overlap",
        f"{count:,} held-out documents also stand in the training text",
        not count,
    )


def overfit(net: GPT, source_BxT: Tensor, target_BxT: Tensor) -> Check:
    """One batch must be learnt by heart, or the gradient does not reach the weights."""
    probe = copy.deepcopy(net).train()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(OVERFIT_STEPS):
        logits = probe(source_BxT)
        loss = summed_cross_entropy(logits, target_BxT) / (target_BxT != IGNORED).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    words = f"from {losses[0]:.3f} to {losses[-1]:.3f} nats a token in {OVERFIT_STEPS} steps"
    return Check("one batch can be overfitted", words, losses[-1] < losses[0] / 2)


def device(net: GPT, source_1xT: Tensor, target_1xT: Tensor, plan: Plan) -> Check | None:
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
