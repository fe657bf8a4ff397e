"""How much memory a run will need, and how much there is."""

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gptlab.config import OptimConfig
from gptlab.device import autocast, available, resident
from gptlab.errors import UserError
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.plan import Plan

ALLOCATOR = 1.15  # what malloc keeps of freed blocks, measured on six models (1.05 to 1.3)

# Bytes a parameter that the optimizer keeps from step to step.
STATE = {"adamw": 8, "adam": 8, "sgd": 4}


def estimate(net: GPT, source_1xT: Tensor, plan: Plan) -> int:
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
    gradients, state = parameters * wide, parameters * state_bytes(plan.optim, wide)
    loss = loss_bytes(net, tokens, wide, plan.compile == "step")
    before = gradients if plan.shape.accumulate > 1 else 0  # those of the micro-batches before
    # The optimizer, while it acts, holds as much again as one of its states.
    peak = max(before + kept + loss, 2 * gradients)
    if device.type != "cpu":
        return sum(p.numel() for p in net.parameters()) * wide + state + peak
    return round((resident() + state + peak) * ALLOCATOR)  # the weights are held already


def loss_bytes(net: GPT, tokens: int, wide: int, graph: bool) -> int:
    """Of the head and its loss: the logits, their logarithms and two gradients; or these for a
    chunk, once and in the half precision of autocast, and the gradients of the head's weights and
    of its input. In a graph the weights' gradient comes last, and all chunks are held until then.
    """
    logits = tokens * net.head.out_features
    if logits <= net.logits_at_once:
        return 4 * logits * wide
    weights = net.head.weight.numel()
    held = logits if graph else net.logits_at_once
    return (net.logits_at_once + held + 2 * weights + tokens * net.config.d_model) * wide


def state_bytes(optim: OptimConfig, wide: int) -> int:
    if optim.name == "sgd" and not optim.momentum:
        return 0
    return STATE.get(optim.name, 8) * wide // 4


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


def check(needed: int, device: str) -> None:
    """Raises UserError where the run cannot fit."""
    there = available(device)
    if there is not None and needed > there:
        raise UserError(
            f"this run needs about {needed / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB are to "
            "be had; take a smaller data.batch_size (with trainer.tokens_per_step the result is "
            "the same), model.context_length or model"
        )
