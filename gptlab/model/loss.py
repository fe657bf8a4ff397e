"""Compute cross-entropy in nats, summed over the real (not ignored) targets.

In shapes: N tokens, R tokens of a chunk, D d_model, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.data.sequences import IGNORE_INDEX

MAX_LOGITS = 2**25  # logits of a chunk
SOFTMAX_BLOCK = 2**21  # logits per softmax call: as many as fit into the processor's cache


def summed_cross_entropy(logits_BxTxV: Tensor, target_BxT: Tensor) -> Tensor:
    """Return the nats of all real targets together, computed at least in float32."""
    return F.cross_entropy(
        at_least_float32(logits_BxTxV.flatten(0, -2)),
        target_BxT.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def head_cross_entropy(
    head: nn.Linear, x_BxTxD: Tensor, target_BxT: Tensor, max_logits: int = MAX_LOGITS
) -> Tensor:
    """Return `summed_cross_entropy(head(x), target)` with about `max_logits` logits at a time.

    With a large vocabulary the logits are the largest tensor of a step, and autograd keeps several
    copies for the backward pass. So tokens are processed in chunks, and each chunk's gradient is
    computed while its logits exist. Same idea: Wijmans et al. (2024), "Cut Your Losses in
    Large-Vocabulary Language Models", arXiv:2411.09009.
    """
    x_NxD, target_N = x_BxTxD.flatten(0, -2), target_BxT.flatten()
    chunks = -(-len(x_NxD) * head.out_features // max_logits)
    rows = -(-len(x_NxD) // chunks)
    if chunks == 1:
        return summed_cross_entropy(head(x_BxTxD), target_BxT)
    if not torch.is_grad_enabled():
        pairs = zip(x_NxD.split(rows), target_N.split(rows), strict=True)
        return torch.stack([summed_cross_entropy(head(x), target) for x, target in pairs]).sum()
    return ChunkedCrossEntropy.apply(x_NxD, head.weight, head.bias, target_N, rows)[0]


def head_log_softmax(
    x_RxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, out_RxV: Tensor
) -> Tensor:
    """Return the log-probabilities of the vocabulary for each row, written into `out_RxV`."""
    if torch.compiler.is_compiling():
        return traced_head_log_softmax(x_RxD, weight_VxD, bias_V, out_RxV)
    same_dtype = x_RxD.dtype == weight_VxD.dtype == out_RxV.dtype
    if not same_dtype or torch.is_autocast_enabled(x_RxD.device.type):
        out_RxV.copy_(F.linear(x_RxD, weight_VxD, bias_V))
    elif bias_V is None:
        torch.mm(x_RxD, weight_VxD.T, out=out_RxV)
    else:
        torch.addmm(bias_V, x_RxD, weight_VxD.T, out=out_RxV)
    for block in out_RxV.split(max(1, SOFTMAX_BLOCK // len(weight_VxD))):
        block.copy_(block.log_softmax(-1))
    return out_RxV


def traced_head_log_softmax(
    x_RxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, _: Tensor
) -> Tensor:
    """Compute `head_log_softmax` for a compiler, which plans its own memory."""
    return at_least_float32(F.linear(x_RxD, weight_VxD, bias_V)).log_softmax(-1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Compute the loss and, in the same pass, its gradients by x, weight, and bias (or None).

    `F.linear_cross_entropy` (torch 2.13) does the same, but four times slower on a CPU, and not
    under `torch.func.grad`, which the compiled step needs.
    """

    @staticmethod
    def forward(
        x_NxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int
    ) -> tuple[Tensor | None, ...]:
        nats, gradient_x = [], []
        gradient_weight = gradient_bias = None
        # One buffer for all chunks: new memory for each would have to be mapped again.
        dtype = torch.promote_types(x_NxD.dtype, torch.float32)
        buffer_RxV = x_NxD.new_empty(rows, len(weight_VxD), dtype=dtype)
        for x_RxD, target_R in zip(x_NxD.split(rows), target_N.split(rows), strict=True):
            real_Rx1 = (target_R != IGNORE_INDEX)[:, None]
            index_Rx1 = target_R.clamp(min=0)[:, None]
            logprobs_RxV = head_log_softmax(x_RxD, weight_VxD, bias_V, buffer_RxV[: len(x_RxD)])
            nats.append(-(logprobs_RxV.gather(1, index_Rx1) * real_Rx1).sum())
            # The gradient by the logits: the probabilities, minus 1 at the target.
            gradient_RxV = logprobs_RxV.exp_()
            gradient_RxV.scatter_add_(1, index_Rx1, -torch.ones_like(gradient_RxV[:, :1]))
            gradient_RxV = gradient_RxV.mul_(real_Rx1).to(x_NxD.dtype)
            gradient_x.append((gradient_RxV @ weight_VxD).to(x_NxD.dtype))
            # Starting from zeros would cost another pass over memory as large as the weights.
            if gradient_weight is None:
                gradient_weight = (gradient_RxV.T @ x_RxD).to(weight_VxD.dtype)
            elif torch.is_autocast_enabled(x_NxD.device.type):  # addmm_ ignores autocast
                gradient_weight += gradient_RxV.T @ x_RxD
            else:
                gradient_weight.addmm_(gradient_RxV.T, x_RxD)
            if bias_V is not None:
                by_bias = gradient_RxV.sum(0).to(bias_V.dtype)
                gradient_bias = by_bias if gradient_bias is None else gradient_bias.add_(by_bias)
        return torch.stack(nats).sum(), torch.cat(gradient_x), gradient_weight, gradient_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, *gradients = output
        ctx.mark_non_differentiable(*(g for g in gradients if g is not None))
        ctx.save_for_backward(*gradients)

    @staticmethod
    def backward(ctx: Any, *by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the gradients are as large as the weights, and nothing else uses them.
        gradients = (None if g is None else g.mul_(by_outputs[0]) for g in ctx.saved_tensors)
        return *gradients, None, None


def perplexity(nats_per_token: float) -> float:
    """Return exp of the mean loss, or infinity if that overflows: 2.0 nats are 7.389."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Return the bits spent on each byte of the text, which compares models across tokenizers."""
    return nats / math.log(2) / text_bytes if text_bytes else math.nan
