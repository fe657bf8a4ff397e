"""From logits to the probabilities that the next token is drawn from: pure functions.

In shapes, B is the samples written at once and V the vocabulary.
"""

import torch
from torch import Tensor

from gptlab.config import SamplingConfig


def temperature(logits_BxV: Tensor, value: float) -> Tensor:
    """Sharper below 1, flatter above; 0 leaves only the likeliest token (greedy)."""
    if value < 1e-5:  # so near 0 that dividing would overflow
        return top_k(logits_BxV, 1)
    return logits_BxV / value


def top_k(logits_BxV: Tensor, k: int) -> Tensor:
    """Only the k likeliest tokens stay possible. Fan and others (2018), arXiv:1805.04833.

    Exactly k, of equal logits those that come first; all, where k is above the vocabulary.
    """
    kept = logits_BxV.topk(min(k, logits_BxV.shape[-1]))
    return torch.full_like(logits_BxV, float("-inf")).scatter(-1, kept.indices, kept.values)


def top_p(logits_BxV: Tensor, p: float) -> Tensor:
    """Only the likeliest tokens that together reach probability p stay possible.

    Holtzman and others (2019), "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    ordered = logits_BxV.sort(descending=True, stable=True)
    probability_BxV = ordered.values.softmax(dim=-1)
    before_BxV = probability_BxV.cumsum(dim=-1) - probability_BxV
    values = ordered.values.masked_fill(before_BxV >= p, float("-inf"))
    return torch.empty_like(logits_BxV).scatter(-1, ordered.indices, values)


def probabilities(logits_BxV: Tensor, config: SamplingConfig) -> Tensor:
    """(B, V), rows sum to 1: temperature, then top-k, then top-p, each where it is set."""
    logits_BxV = temperature(logits_BxV.float(), config.temperature)
    if config.top_k is not None:
        logits_BxV = top_k(logits_BxV, config.top_k)
    if config.top_p is not None:
        logits_BxV = top_p(logits_BxV, config.top_p)
    return logits_BxV.softmax(dim=-1)
