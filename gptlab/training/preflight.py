"""Check settings, model and data before the first step; measure time and memory."""

import copy
import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gptlab.config import sweeps
from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TrainingBatches
from gptlab.data.sequences import IGNORE_INDEX, RecordSequences, Sequences
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.loss import summed_cross_entropy
from gptlab.model.size import check_size
from gptlab.training.device_check import Check
from gptlab.training.instantiate import instantiate_callbacks
from gptlab.training.loggers import check_loggers
from gptlab.training.optim import check_optim, optimizer_values_per_weight
from gptlab.training.plugin_checks import check_cached_outputs, check_shapes
from gptlab.training.run_plan import RunPlan, TrainingSetup
from gptlab.training.trainer import check_trainer_arguments
from gptlab.utils.console import plural, report_compile_failure
from gptlab.utils.device import (
    autocast,
    available_memory,
    resident_memory,
    resolve_accelerator,
    resolve_precision,
)
from gptlab.utils.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from gptlab.training.fast.compiled_step import CompiledStep

FIRST_LOSS_MARGIN = 1.0  # nats above ln(vocabulary); beyond: initial weights are too large
CAUSALITY_TOKENS = 16
OVERFIT_STEPS = 100
ALLOCATOR_OVERHEAD = 1.15  # freed blocks that malloc retains; measured on six models: 1.05 to 1.3
# The vocabulary is known only with the corpus. These bounds suffice to refuse an absurd model.
VOCABULARY_BOUNDS = {"gpt2": 50_257, "words": 2, "char": 2}


def check_train_settings(config: TrainConfig) -> None:
    """Raise UserError for settings that cannot work with any data, before a corpus is built."""
    trainer, model = config.trainer, config.model
    check_trainer_arguments(trainer.extra)
    if trainer.devices * trainer.num_nodes > 1 and sweeps.is_sweep_job():
        key = f"trainer.devices={trainer.devices}"
        raise UserError(f"{key}: a sweep (-m) runs on one device; start its jobs one by one")
    vocabulary = model.vocab_size or VOCABULARY_BOUNDS.get(config.tokenizer.name, 2)
    check_size(replace(model, vocab_size=vocabulary))
    # Several devices: not an Apple GPU, of which there is one.
    operations = math.inf if trainer.devices * trainer.num_nodes == 1 else 0.0
    accelerator = resolve_accelerator(trainer.accelerator, operations=operations)
    resolve_precision(trainer.precision, accelerator)
    counts = {"cuda": torch.cuda.device_count(), "mps": 1, "cpu": os.cpu_count() or 1}
    if trainer.devices > (available := counts[accelerator]):
        raise UserError(f"trainer.devices={trainer.devices}: this machine has {available}")
    check_optim(config.optim)
    instantiate_callbacks(config)
    check_loggers(config)


@dataclass
class PreflightReport:
    """The results of all checks, and the run's need of time and memory."""

    checks: list[Check]
    seconds_per_step: float
    memory: int  # bytes


def run_preflight(
    setup: TrainingSetup,
    random_weights: bool,
    compiled_step: "CompiledStep | None" = None,
    device_check: Check | None = None,
) -> PreflightReport:
    """Check net, device and data before the first step, without changing a weight.

    Compiles `compiled_step`, if there is one. Raises UserError for a failure of the model.
    """
    net, data, plan = setup.net, setup.data, setup.plan
    batch = TrainingBatches(data.sequences, data.shape)[data.first_micro_batch]
    source_BxT, target_BxT = (batch[name].to(plan.accelerator) for name in ("input", "target"))
    net.to(plan.accelerator)
    check_shapes(net)
    checks = [check_causality(net, source_BxT[0]), check_split_overlap(data.corpus)]
    check_cached_outputs(net, source_BxT[:1, :CAUSALITY_TOKENS])
    row_1xT = longest_row(data.sequences) if plan.variable_length else source_BxT[:1]
    memory = estimate_memory(net, row_1xT.to(plan.accelerator), plan)
    check_memory(memory, plan.accelerator)
    if device_check:
        checks.append(device_check)
    net.train()
    if compiled_step:
        compiled_step.compile(source_BxT, target_BxT)
        plan.compile = "step" if compiled_step.shape else "false"
    try:
        seconds, loss = time_step(net, source_BxT, target_BxT, plan, compiled_step)
    except Exception as error:  # a compiler may raise anything
        if plan.compile != "model" or is_out_of_memory(error):
            raise
        report_compile_failure(error)
        plan.compile, net._compiled_call_impl = "false", None
        seconds, loss = time_step(net, source_BxT, target_BxT, plan, None)
    if random_weights:
        checks.insert(0, check_first_loss(loss, net.head.out_features))
    if setup.config.preflight == "only":
        checks.append(check_overfitting(net, source_BxT, target_BxT))
    net.to("cpu")
    return PreflightReport(checks, seconds, memory)


def longest_row(records: Sequences) -> Tensor:
    """Return the longest training record, (1, T)."""
    assert isinstance(records, RecordSequences)
    longest = records.token_counts(np.arange(len(records))).argmax()
    return records.read_document_batch(np.array([longest]))[0]


def time_step(
    net: GPT,
    source_BxT: Tensor,
    target_BxT: Tensor,
    plan: RunPlan,
    compiled_step: "CompiledStep | None",
) -> tuple[float, float]:
    """Return the seconds per optimizer step, and the loss in nats per token.

    Times forward and backward pass of a micro-batch after one that warms up (and compiles), and
    discards the gradients.
    """
    for _ in range(2):
        began = time.perf_counter()
        if compiled_step and compiled_step.matches(source_BxT):
            loss, _ = compiled_step(source_BxT, target_BxT, 1.0)
        else:
            with autocast(plan.precision, plan.accelerator):
                loss = net(source_BxT, target_BxT)
            loss.backward()
        nats = float(loss.detach())  # waits for the device
        seconds = time.perf_counter() - began
        net.zero_grad(set_to_none=True)
        if seconds > 2 and getattr(net, "_compiled_call_impl", None) is None:
            break  # the warmup is a small part of so slow a step
    return seconds * plan.shape.accumulate, nats / max(1, int((target_BxT != IGNORE_INDEX).sum()))


def check_first_loss(loss: float, vocabulary: int) -> Check:
    """Check that an untrained model gives every token about the same probability."""
    uniform = math.log(vocabulary)
    guess = f"a uniform guess has ln(vocabulary) = {uniform:.3f}"
    result = f"{loss:.3f} nats/token (natural-log units); {guess}"
    return Check("first loss", result, loss < uniform + FIRST_LOSS_MARGIN)


def check_causality(net: GPT, row_T: Tensor) -> Check:
    """Check that no output depends on a later token (zero gradient)."""
    row = row_T[:CAUSALITY_TOKENS][None]
    half = row.shape[1] // 2
    x = net.embed(row).detach().requires_grad_()
    was_training = net.training
    net.eval()
    # Weighted, because the plain sum of a layer norm's output is constant.
    weights = torch.linspace(1, 2, net.config.d_model, device=row.device)
    (net.forward_blocks(x)[0, half] * weights).sum().backward()
    net.train(was_training)
    net.zero_grad(set_to_none=True)
    assert x.grad is not None
    leaks = bool((x.grad[0, half + 1 :] != 0).any())
    if leaks and not net.config.let_attention_see_the_future:
        raise UserError(
            "the model sees the future: an output depends on later tokens, so its loss means "
            "nothing; look for a missing mask in what you changed"
        )
    result = "LEAKS, as configured" if leaks else "none"
    return Check("no gradient from the future", result, not leaks)


def check_split_overlap(corpus: Corpus) -> Check:
    count = corpus.meta["duplicates_across_splits"]
    result = f"also in the training text: {plural(count, 'held-out document')}"
    return Check("splits do not overlap", result, not count)


def check_overfitting(net: GPT, source_BxT: Tensor, target_BxT: Tensor) -> Check:
    """Overfit one batch with a copy of the model, to check that gradients reach the weights."""
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
    result = f"from {losses[0]:.3f} to {losses[-1]:.3f} nats/token in {OVERFIT_STEPS} steps"
    return Check("one batch can be overfitted", result, losses[-1] < losses[0] / 2)


def estimate_memory(net: GPT, source_1xT: Tensor, plan: RunPlan) -> int:
    """Estimate the peak bytes of a training step on the device of `source_1xT`.

    Counts what autograd saves in the blocks for one row and multiplies it by the rows of a
    micro-batch; the rest follows from the sizes. On a CPU, includes the process's present memory.
    """
    rows, tokens = plan.shape.batch_size, plan.shape.batch_size * plan.row_tokens
    activations = saved_activation_bytes(net, source_1xT, plan.precision) * rows
    width = 2 if plan.precision == "bf16-true" else 4  # bytes per parameter
    parameters = count_parameters(net)
    gradients = parameters * width
    state = gradients * optimizer_values_per_weight(plan.optim)
    loss = head_and_loss_bytes(net, tokens, width, plan.compile == "step")
    accumulated = gradients if plan.shape.accumulate > 1 else 0
    # The optimizer's update needs a temporary as large as the gradients.
    peak = max(accumulated + activations + loss, 2 * gradients)
    if source_1xT.device.type != "cpu":
        return sum(p.numel() for p in net.parameters()) * width + state + peak
    # The process holds the weights already.
    return round((resident_memory() + state + peak) * ALLOCATOR_OVERHEAD)


def head_and_loss_bytes(net: GPT, tokens: int, width: int, compiled_step: bool) -> int:
    """Estimate the bytes of logits, log-probabilities and two gradients, or of one chunk of them.

    A chunked loss computes in autocast's half precision and adds the gradients of the head's
    weights and input. In a compiled step the weights' gradient comes last, so all chunks stay.
    """
    logits = tokens * net.head.out_features
    if logits <= net.max_logits:
        return 4 * logits * width
    weights = net.head.weight.numel()
    retained = logits if compiled_step else net.max_logits
    return (net.max_logits + retained + 2 * weights + tokens * net.config.d_model) * width


def saved_activation_bytes(net: GPT, source_BxT: Tensor, precision: str) -> int:
    """Count the bytes that autograd saves for the blocks' backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = source_BxT.device.type
    with saved_tensors_hooks(record, lambda tensor: tensor), autocast(precision, device):
        x_BxTxD = net.hidden_states(source_BxT)
    del x_BxTxD  # keeps tensors alive, so that storages do not reuse addresses
    return sum(saved.values())


def check_memory(needed: int, device: str) -> None:
    """Raise UserError if the run does not fit into memory."""
    available = available_memory(device)
    if available is not None and needed > available:
        raise UserError(
            f"this run needs about {needed / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB "
            "are available; try a smaller data.batch_size (trainer.tokens_per_step keeps the "
            "result the same), model.context_length or model"
        )
