"""From logits to the probabilities that the next token is drawn from: pure functions.

In shapes, B is the samples written at once, V the vocabulary, C the tokens that can be chosen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.config.schema import SamplingConfig

IMPOSSIBLE = float("-inf")
NUCLEUS = 1024


def repetition_penalty(logits_BxV: Tensor, penalty: float, texts: Sequence[list[int]]) -> Tensor:
    """Tokens that a text has already become less likely, above 1: a positive logit is divided by
    the penalty, a negative one multiplied. Keskar and others (2019), arXiv:1909.05858."""
    logits_BxV = logits_BxV.clone()
    for logits_V, tokens in zip(logits_BxV, texts, strict=True):
        seen = torch.tensor(sorted(set(tokens)), device=logits_V.device)
        values = logits_V[seen]
        logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_BxV


def no_repeat_ngram(logits_BxV: Tensor, n: int, texts: Sequence[list[int]]) -> Tensor:
    """No run of n tokens may come twice in a text. Paulus and others (2017), arXiv:1705.04304."""
    logits_BxV = logits_BxV.clone()
    for logits_V, tokens in zip(logits_BxV, texts, strict=True):
        last = tokens[len(tokens) - n + 1 :] if n > 1 else []
        starts = range(len(tokens) - n + 1)
        again = {tokens[i + n - 1] for i in starts if tokens[i : i + n - 1] == last}
        if len(again) < int(logits_V.isfinite().sum()):  # something must stay possible
            logits_V[list(again)] = IMPOSSIBLE
    return logits_BxV


def temperature(logits_BxC: Tensor, value: float) -> Tensor:
    """Sharper below 1, flatter above; 0 leaves only the likeliest token (greedy)."""
    if value < 1e-5:  # so near 0 that dividing would overflow
        return top_k(logits_BxC, 1)
    return logits_BxC / value


def top_k(logits_BxC: Tensor, k: int) -> Tensor:
    """Only the k likeliest tokens stay possible. Fan and others (2018), arXiv:1805.04833.

    Exactly k, of equal logits any; all, where k is above the vocabulary.
    """
    kept = logits_BxC.topk(min(k, logits_BxC.shape[-1]))
    return torch.full_like(logits_BxC, IMPOSSIBLE).scatter(-1, kept.indices, kept.values)


def top_p(logits_BxC: Tensor, p: float, of_all_Bx1: Tensor | None = None) -> Tensor:
    """Only the likeliest tokens that together reach probability p stay possible.

    Where these are but the likeliest of more, `of_all_Bx1` is the logarithm of all their sum.
    Holtzman and others (2019), "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    if of_all_Bx1 is None:
        of_all_Bx1 = logits_BxC.logsumexp(dim=-1, keepdim=True)
    ordered = logits_BxC.sort(descending=True, stable=True)
    probability_BxC = (ordered.values - of_all_Bx1).exp()
    before_BxC = probability_BxC.cumsum(dim=-1) - probability_BxC
    values = ordered.values.masked_fill(before_BxC >= p, IMPOSSIBLE)
    return torch.empty_like(logits_BxC).scatter(-1, ordered.indices, values)


def min_p(logits_BxC: Tensor, p: float) -> Tensor:
    """Only tokens at least p times as likely as the likeliest stay possible.

    Nguyen and others (2024), "Turning Up the Heat", arXiv:2407.01082.
    """
    probability_BxC = logits_BxC.softmax(dim=-1)
    least_Bx1 = p * probability_BxC.amax(dim=-1, keepdim=True)
    return logits_BxC.masked_fill(probability_BxC < least_Bx1, IMPOSSIBLE)


def apply_penalties(
    logits_BxV: Tensor, config: SamplingConfig, texts: Sequence[list[int]]
) -> Tensor:
    """(B, V), after the penalties for what each text has already, where they are set."""
    if config.repetition_penalty != 1:
        logits_BxV = repetition_penalty(logits_BxV, config.repetition_penalty, texts)
    if config.no_repeat_ngram is not None:
        logits_BxV = no_repeat_ngram(logits_BxV, config.no_repeat_ngram, texts)
    return logits_BxV


def candidate_logits(logits_BxV: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The logits that can matter to these settings, and whose they are, both (B, C).

    Top-p nearly always ends among the first thousand: then these are all that has to be sorted.
    """
    if config.top_k is not None:
        return logits_BxV.topk(min(config.top_k, logits_BxV.shape[-1]))
    if config.top_p is not None and logits_BxV.shape[-1] > 2 * NUCLEUS:
        kept = logits_BxV.topk(NUCLEUS)
        reached_B = (kept.values - logits_BxV.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
        if (reached_B > config.top_p).all():
            return kept
    ids_V = torch.arange(logits_BxV.shape[-1], device=logits_BxV.device)
    return logits_BxV, ids_V.expand_as(logits_BxV)


def candidate_probabilities(
    logits_BxV: Tensor, config: SamplingConfig, texts: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """What each sample chooses among: probabilities, rows sum to 1, and token ids, both (B, C).

    The penalties for what its text has, then temperature, top-k, top-p and min-p, each where it is
    set.
    """
    logits_BxV = apply_penalties(logits_BxV.float(), config, texts)
    if config.temperature < 1e-5:
        best = logits_BxV.max(dim=-1, keepdim=True)
        return torch.ones_like(best.values), best.indices
    logits_BxV = temperature(logits_BxV, config.temperature)
    logits_BxC, ids_BxC = candidate_logits(logits_BxV, config)
    if config.top_p is not None:
        # Of k tokens top-p sees these alone.
        among = logits_BxV if config.top_k is None else logits_BxC
        logits_BxC = top_p(logits_BxC, config.top_p, among.logsumexp(dim=-1, keepdim=True))
    if config.min_p is not None:
        logits_BxC = min_p(logits_BxC, config.min_p)
    return logits_BxC.softmax(dim=-1), ids_BxC


def full_probabilities(
    logits_BxV: Tensor, config: SamplingConfig, texts: Sequence[list[int]] | None = None
) -> Tensor:
    """The same over the whole vocabulary, (B, V)."""
    texts = [[]] * len(logits_BxV) if texts is None else texts
    probabilities_BxC, ids_BxC = candidate_probabilities(logits_BxV, config, texts)
    nothing = torch.zeros_like(logits_BxV, dtype=torch.float32)
    return nothing.scatter(-1, ids_BxC, probabilities_BxC)


def sample_columns(probabilities_BxC: Tensor, draws: Sequence[torch.Generator]) -> list[int]:
    """A column for each row, by a generator of its own: where a uniform number falls among the
    cumulative probabilities. On the CPU, for the same text on any device."""
    if probabilities_BxC.shape[-1] == 1:
        return [0] * len(draws)
    reached_BxC = probabilities_BxC.cpu().double().cumsum(dim=-1)
    total_B = reached_BxC[:, -1].contiguous()
    uniform_B = torch.stack([torch.rand((), dtype=torch.float64, generator=g) for g in draws])
    wanted_B = torch.minimum(uniform_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
    return torch.searchsorted(reached_BxC, wanted_B[:, None], right=True)[:, 0].tolist()
