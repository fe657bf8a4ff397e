"""How much memory a run will need, and how much there is."""

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gptlab.config import OptimConfig
from gptlab.device import autocast, available, resident
from gptlab.errors import UserError
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.plan import Plan

ALLOCATOR = 1.15  # what malloc keeps of freed blocks, measured on six models (1.05 to 1.3)

# Bytes a parameter that the optimizer keeps from step to step.
STATE = {"adamw": 8, "adam": 8, "sgd": 4}


def estimate(net: GPT, source_1xT: Tensor, target_1xT: Tensor, plan: Plan) -> int:
    """Bytes at the peak of a training step, on the device where the net is.

    What autograd keeps of a forward pass is counted on one row and multiplied by the rows of a
    micro-batch; the sizes of all else follow from the configuration. On a CPU what the process
    holds already is part of it.
    """
    device = source_1xT.device
    kept = saved_bytes(net, source_1xT, target_1xT, plan.precision) * plan.shape.batch_size
    wide = 2 if plan.precision == "bf16-true" else 4
    parameters = count_parameters(net)
    logits = plan.shape.batch_size * plan.row_tokens * net.config.vocab_size * wide
    gradients, state = parameters * wide, parameters * state_bytes(plan.optim, wide)
    # Gradients of the step before are there until its last activation is; of the logits there are
    # then two gradients more; the optimizer, while it acts, holds as much again as one of its
    # states.
    peak = max(gradients + kept + logits, kept + 2 * logits, 2 * gradients)
    if device.type != "cpu":
        return parameters * wide + state + peak
    return round((resident() + state + peak) * ALLOCATOR)  # the weights are held already


def state_bytes(optim: OptimConfig, wide: int) -> int:
    if optim.name == "sgd" and not optim.momentum:
        return 0
    return STATE.get(optim.name, 8) * wide // 4


def saved_bytes(net: GPT, source: Tensor, target: Tensor, precision: str) -> int:
    """What autograd keeps for the backward pass of these rows, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), autocast(precision, source.device.type):
        loss = summed_cross_entropy(net(source), target)
    del loss  # alive until here, or storages would share addresses
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
