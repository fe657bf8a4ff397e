"""Compare the run's device with the CPU before training.

Some devices compute wrongly without an error. Apple's GPU did so for a product as large as a
GPT-2's head (github.com/pytorch/pytorch/issues/109457), and for gradients of a non-contiguous input
(issues/175189) although the forward pass was right. So loss and gradient are compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.config.schema import TrainerConfig
from gptlab.data.dataloader import Batch
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.run_plan import RunPlan
from gptlab.utils.console import print_status
from gptlab.utils.device import autocast, resolve_precision
from gptlab.utils.errors import UserError, is_out_of_memory

CHECK_OPERATIONS = 2e11  # about a second on a laptop's CPU
LOSS_TOLERANCE = 0.01  # of the loss, or nats per token below one nat
# Norm of the difference / norm of the gradient. Half precision rounds to three digits: on four
# models on a CPU, bf16-mixed differed by 0.003 to 0.05.
GRADIENT_TOLERANCE, HALF_GRADIENT_TOLERANCE = 0.01, 0.3


@dataclass
class Check:
    """The result of one check."""

    name: str
    result: str
    passed: bool = True

    def __str__(self) -> str:
        return f"  {'ok  ' if self.passed else 'WARN'}  {self.name}: {self.result}"


def check_device(net: GPT, batch: Batch, plan: RunPlan, settings: TrainerConfig) -> Check | None:
    """Compare loss and gradient of a small batch with float32 on the CPU.

    Returns None if the run uses just that. If they differ, `trainer.accelerator=auto` changes the
    plan to the CPU. Raises UserError for a device that was named, and for several devices.
    """
    if plan.accelerator == "cpu" and plan.precision == "32-true":
        return None
    device, name = plan.accelerator, f"{plan.accelerator} {plan.precision}"
    result, agrees = compare_to_cpu(net, small_batch(net, batch), plan)
    if agrees:
        return Check("device", f"{name} agrees with the CPU: {result}")
    if settings.accelerator != "auto" or device == "cpu" or plan.shape.world_size > 1:
        raise UserError(
            f"trainer.accelerator={device}: its results differ from the CPU's: {result}; try "
            f"another trainer.precision than {plan.precision}, another version of torch, or "
            "trainer.accelerator=cpu"
        )
    print_status(f"training on the CPU, because {name} computes wrong results here: {result}")
    plan.accelerator = "cpu"
    plan.precision = resolve_precision(settings.precision, "cpu")
    return None


def small_batch(net: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return as many rows of the batch, or tokens of its first row, as the CPU computes quickly."""
    source_BxT, target_BxT = batch["input"], batch["target"]
    tokens = int(CHECK_OPERATIONS / (6 * max(1, count_parameters(net))))
    rows, length = max(1, tokens // source_BxT.shape[1]), max(16, tokens)
    if not (target_BxT[:rows, :length] != IGNORE_INDEX).any():  # only a prompt
        length = source_BxT.shape[1]
    return source_BxT[:rows, :length], target_BxT[:rows, :length]


def compare_to_cpu(net: GPT, batch: tuple[Tensor, Tensor], plan: RunPlan) -> tuple[str, bool]:
    """Return the difference in words, and whether it is within the tolerances."""
    was_training = net.training
    net.eval()
    try:
        loss, gradient = loss_and_gradient(net, batch, plan.accelerator, plan.precision)
        true_loss, true_gradient = loss_and_gradient(net, batch, "cpu", "32-true")
    except (RuntimeError, TypeError) as error:  # torch: an operation or a dtype is missing
        # A virtual Mac's GPU has no memory at all; smaller micro-batches would not help.
        if is_out_of_memory(error) and plan.accelerator != "mps":
            raise
        return f"it fails ({str(error).splitlines()[0]:.200})", False
    finally:
        net.to("cpu").train(was_training)
        net.zero_grad(set_to_none=True)
    tokens = int((batch[1] != IGNORE_INDEX).sum())
    loss_error = abs(loss - true_loss) / max(true_loss, tokens)
    gradient_error = float((gradient - true_gradient).norm() / true_gradient.norm())
    exact = plan.precision == "32-true"
    tolerance = GRADIENT_TOLERANCE if exact else HALF_GRADIENT_TOLERANCE
    agrees = loss_error <= LOSS_TOLERANCE and gradient_error <= tolerance
    return f"the loss within {loss_error:.2%}, the gradient within {gradient_error:.2%}", agrees


def loss_and_gradient(
    net: GPT, batch: tuple[Tensor, Tensor], device: str, precision: str
) -> tuple[float, Tensor]:
    """Return the loss and the flattened gradient, on the CPU."""
    net.to(device).zero_grad(set_to_none=True)
    with autocast(precision, device):
        loss = net(*(tensor.to(device) for tensor in batch))
    loss.backward()
    gradients = [p.grad.float().cpu().flatten() for p in net.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)
