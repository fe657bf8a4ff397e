"""Pure functions from logits to the probabilities of the next token.

In shapes: B samples, V vocabulary, C candidate tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.config.schema import SamplingConfig

TOP_P_CANDIDATES = 1024
TokenIds = Sequence[list[int]]  # prompt and new tokens of each sample


def repetition_penalty(logits_BxV: Tensor, penalty: float, token_ids: TokenIds) -> Tensor:
    """Make tokens that a text already contains less likely (for penalties above 1).

    A positive logit is divided by the penalty, a negative one multiplied.
    Keskar et al. (2019), arXiv:1909.05858.
    """
    logits_BxV = logits_BxV.clone()
    for logits_V, tokens in zip(logits_BxV, token_ids, strict=True):
        seen = torch.tensor(sorted(set(tokens)), device=logits_V.device)
        values = logits_V[seen]
        logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_BxV


def no_repeat_ngram(logits_BxV: Tensor, n: int, token_ids: TokenIds) -> Tensor:
    """Exclude tokens that would repeat an n-gram of the text, unless that would exclude all.

    Paulus et al. (2017), arXiv:1705.04304.
    """
    logits_BxV = logits_BxV.clone()
    for logits_V, tokens in zip(logits_BxV, token_ids, strict=True):
        last = tokens[len(tokens) - n + 1 :] if n > 1 else []
        starts = range(len(tokens) - n + 1)
        repeats = {tokens[i + n - 1] for i in starts if tokens[i : i + n - 1] == last}
        if len(repeats) < int(logits_V.isfinite().sum()):
            logits_V[list(repeats)] = -torch.inf
    return logits_BxV


def top_p(logits_BxC: Tensor, p: float, logsumexp_Bx1: Tensor | None = None) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities add up to p.

    `logsumexp_Bx1` is over the whole vocabulary, if the logits are only the most likely of it.
    Holtzman et al. (2019), "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    if logsumexp_Bx1 is None:
        logsumexp_Bx1 = logits_BxC.logsumexp(dim=-1, keepdim=True)
    ordered = logits_BxC.sort(descending=True, stable=True)
    probability_BxC = (ordered.values - logsumexp_Bx1).exp()
    preceding_BxC = probability_BxC.cumsum(dim=-1) - probability_BxC
    values = ordered.values.masked_fill(preceding_BxC >= p, -torch.inf)
    return torch.empty_like(logits_BxC).scatter(-1, ordered.indices, values)


def min_p(logits_BxC: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the most likely one.

    Nguyen et al. (2024), "Turning Up the Heat", arXiv:2407.01082.
    """
    probability_BxC = logits_BxC.softmax(dim=-1)
    threshold_Bx1 = p * probability_BxC.amax(dim=-1, keepdim=True)
    return logits_BxC.masked_fill(probability_BxC < threshold_Bx1, -torch.inf)


def apply_penalties(logits_BxV: Tensor, config: SamplingConfig, token_ids: TokenIds) -> Tensor:
    """Apply the configured penalties for repeating what each text already contains."""
    if config.repetition_penalty != 1:
        logits_BxV = repetition_penalty(logits_BxV, config.repetition_penalty, token_ids)
    if config.no_repeat_ngram is not None:
        logits_BxV = no_repeat_ngram(logits_BxV, config.no_repeat_ngram, token_ids)
    return logits_BxV


def candidate_logits(logits_BxV: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Return the logits that can matter under these settings, and their token ids, both (B, C).

    Top-k keeps exactly the k most likely tokens. Fan et al. (2018), arXiv:1805.04833. Top-p nearly
    always keeps fewer than a thousand tokens, so only those have to be sorted.
    """
    if config.top_k is not None:
        return logits_BxV.topk(min(config.top_k, logits_BxV.shape[-1]))
    if config.top_p is not None and logits_BxV.shape[-1] > 2 * TOP_P_CANDIDATES:
        kept = logits_BxV.topk(TOP_P_CANDIDATES)
        mass_B = (kept.values - logits_BxV.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
        if (mass_B > config.top_p).all():
            return kept
    ids_V = torch.arange(logits_BxV.shape[-1], device=logits_BxV.device)
    return logits_BxV, ids_V.expand_as(logits_BxV)


def candidate_probabilities(
    logits_BxV: Tensor, config: SamplingConfig, token_ids: TokenIds
) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the tokens to choose from, and their ids, both (B, C).

    Applies, where set: penalties, temperature, top-k, top-p, min-p, in this order. A temperature
    below 1 sharpens the distribution, above 1 flattens it, and 0 keeps the most likely token.
    """
    logits_BxV = apply_penalties(logits_BxV.float(), config, token_ids)
    if config.temperature < 1e-5:  # dividing would overflow
        best = logits_BxV.max(dim=-1, keepdim=True)
        return torch.ones_like(best.values), best.indices
    logits_BxV = logits_BxV / config.temperature
    logits_BxC, ids_BxC = candidate_logits(logits_BxV, config)
    if config.top_p is not None:
        # After top-k, the probabilities of the kept tokens add up to 1.
        remaining = logits_BxV if config.top_k is None else logits_BxC
        logits_BxC = top_p(logits_BxC, config.top_p, remaining.logsumexp(dim=-1, keepdim=True))
    if config.min_p is not None:
        logits_BxC = min_p(logits_BxC, config.min_p)
    return logits_BxC.softmax(dim=-1), ids_BxC


def sample_columns(probabilities_BxC: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """Draw one column per row, each with its own generator.

    Runs on the CPU, so that a seed gives the same text on any device.
    """
    if probabilities_BxC.shape[-1] == 1:
        return [0] * len(generators)
    cumulative_BxC = probabilities_BxC.cpu().double().cumsum(dim=-1)
    total_B = cumulative_BxC[:, -1].contiguous()
    uniform_B = torch.stack([torch.rand((), dtype=torch.float64, generator=g) for g in generators])
    point_B = torch.minimum(uniform_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
    return torch.searchsorted(cumulative_BxC, point_B[:, None], right=True)[:, 0].tolist()
