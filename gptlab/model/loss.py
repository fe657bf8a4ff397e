"""Cross-entropy in nats, summed over the targets that count."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.data.sequences import IGNORE_INDEX

MAX_LOGITS = 2**25  # logits
SOFTMAX_BLOCK = 2**21  # logits whose softmax is taken at once


def summed_cross_entropy(logits_BxTxV: Tensor, target_BxT: Tensor) -> Tensor:
    """Nats of all real targets together; ignored ones add nothing. In float32 at least."""
    return F.cross_entropy(
        at_least_float32(logits_BxTxV.flatten(0, -2)),
        target_BxT.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def head_cross_entropy(
    head: nn.Linear, x_BxTxD: Tensor, target_BxT: Tensor, at_once: int = MAX_LOGITS
) -> Tensor:
    """`summed_cross_entropy(head(x), target)`, with at most about `at_once` logits at a time.

    A large vocabulary's logits are the largest thing in a step, and autograd keeps several times
    as many numbers for the backward pass. So rows are taken in chunks, and each chunk's gradient
    is computed while its logits are there. The same idea: Wijmans and others (2024), "Cut Your
    Losses in Large-Vocabulary Language Models", arXiv:2411.09009.
    """
    x_NxD, target_N = x_BxTxD.flatten(0, -2), target_BxT.flatten()
    chunks = -(-len(x_NxD) * head.out_features // at_once)
    rows = -(-len(x_NxD) // chunks)
    if chunks == 1:
        return summed_cross_entropy(head(x_BxTxD), target_BxT)
    if not torch.is_grad_enabled():
        pairs = zip(x_NxD.split(rows), target_N.split(rows), strict=True)
        return torch.stack([summed_cross_entropy(head(x), target) for x, target in pairs]).sum()
    return ChunkedCrossEntropy.apply(x_NxD, head.weight, head.bias, target_N, rows)[0]


def head_log_softmax(
    x_RxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, into_RxV: Tensor
) -> Tensor:
    """Of each token, after each row; written into that memory, a part at a time."""
    if torch.compiler.is_compiling():
        return traced_head_log_softmax(x_RxD, weight_VxD, bias_V, into_RxV)
    alike = x_RxD.dtype == weight_VxD.dtype == into_RxV.dtype
    if not alike or torch.is_autocast_enabled(x_RxD.device.type):
        into_RxV.copy_(F.linear(x_RxD, weight_VxD, bias_V))
    elif bias_V is None:
        torch.mm(x_RxD, weight_VxD.T, out=into_RxV)
    else:
        torch.addmm(bias_V, x_RxD, weight_VxD.T, out=into_RxV)
    for part in into_RxV.split(max(1, SOFTMAX_BLOCK // len(weight_VxD))):
        part.copy_(part.log_softmax(-1))
    return into_RxV


def traced_head_log_softmax(
    x_RxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, _: Tensor
) -> Tensor:
    """The same for a compiler, which sees to its own memory."""
    return at_least_float32(F.linear(x_RxD, weight_VxD, bias_V)).log_softmax(-1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The loss and, on the way, its gradient: of x (N, D), weight (V, D), bias (V) or None."""

    @staticmethod
    def forward(
        x_NxD: Tensor, weight_VxD: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int
    ) -> tuple[Tensor | None, ...]:
        nats, gradient_x = [], []
        gradient_weight = gradient_bias = None
        # One buffer for all chunks: given back and had anew, each would come as other memory.
        wide = torch.promote_types(x_NxD.dtype, torch.float32)
        buffer_RxV = x_NxD.new_empty(rows, len(weight_VxD), dtype=wide)
        for x_RxD, target_R in zip(x_NxD.split(rows), target_N.split(rows), strict=True):
            real_Rx1 = (target_R != IGNORE_INDEX)[:, None]
            place_Rx1 = target_R.clamp(min=0)[:, None]
            logs_RxV = head_log_softmax(x_RxD, weight_VxD, bias_V, buffer_RxV[: len(x_RxD)])
            nats.append(-(logs_RxV.gather(1, place_Rx1) * real_Rx1).sum())
            # By the logits, the gradient is the probabilities, less 1 for the right token.
            slope_RxV = logs_RxV.exp_()
            slope_RxV.scatter_add_(1, place_Rx1, -torch.ones_like(slope_RxV[:, :1]))
            slope_RxV = slope_RxV.mul_(real_Rx1).to(x_NxD.dtype)
            gradient_x.append((slope_RxV @ weight_VxD).to(x_NxD.dtype))
            # Not begun with zeros: one pass less over memory as large as the weights.
            if gradient_weight is None:
                gradient_weight = (slope_RxV.T @ x_RxD).to(weight_VxD.dtype)
            elif torch.is_autocast_enabled(x_NxD.device.type):  # which this in place goes past
                gradient_weight += slope_RxV.T @ x_RxD
            else:
                gradient_weight.addmm_(slope_RxV.T, x_RxD)
            if bias_V is not None:
                by_bias = slope_RxV.sum(0).to(bias_V.dtype)
                gradient_bias = by_bias if gradient_bias is None else gradient_bias.add_(by_bias)
        return torch.stack(nats).sum(), torch.cat(gradient_x), gradient_weight, gradient_bias

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        _, *gradients = output
        ctx.mark_non_differentiable(*(g for g in gradients if g is not None))
        ctx.save_for_backward(*gradients)

    @staticmethod
    def backward(ctx, by_nats: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place: they are as large as the weights, and nobody else's.
        gradients = (None if g is None else g.mul_(by_nats) for g in ctx.saved_tensors)
        return *gradients, None, None


def perplexity(nats_per_token: float) -> float:
    """exp of the mean loss, infinite where that overflows: 2.0 nats is 7.389."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """A loss that compares across tokenizers: the bits spent on each byte of the scored text."""
    return nats / math.log(2) / text_bytes if text_bytes else math.nan
