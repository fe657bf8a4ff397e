"""The memory that a training step needs, estimated before the first one."""

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.optim import optimizer_values_per_weight
from gptlab.training.run_plan import RunPlan
from gptlab.utils.device import autocast, available_memory, resident_memory
from gptlab.utils.errors import UserError

ALLOCATOR_OVERHEAD = 1.15  # freed blocks that malloc retains; measured on six models: 1.05 to 1.3


def estimate_memory(net: GPT, source_1xT: Tensor, plan: RunPlan) -> int:
    """Bytes at the peak of a training step, on the device of `source_1xT`.

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
    """Bytes for the logits, their log-probabilities and two gradients, or for one chunk of these.

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
    """Bytes that autograd saves for the backward pass of the blocks, weights excluded."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        saved_tensors_hooks(record, lambda tensor: tensor),
        autocast(precision, source_BxT.device.type),
    ):
        x_BxTxD = net.hidden(source_BxT)
    del x_BxTxD  # alive until here: otherwise storages would reuse addresses
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
