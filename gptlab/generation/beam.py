"""Search for a likely text by keeping the few most likely beginnings at each step (beam search)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptlab.generation.context_window import next_logits, open_context
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.generation.sampling import apply_penalties


@torch.inference_mode()
def beam_steps(request: GenerationRequest) -> Iterator[list[Sample]]:
    """Yield the best finished samples so far after each step; the last list is the result.

    Each step keeps the `sampling.beams` most likely beginnings. Samples are ranked by
    log-probability / length ** length_penalty, where the length counts new tokens and end-of-text.
    Of the other sampling settings only `repetition_penalty` and `no_repeat_ngram` apply. The search
    ends when no active beam can beat the worst of `beams` finished samples.
    Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711; length
    penalty after Wu et al. (2016), arXiv:1609.08144, as a power of the length.

    Raises UserError if the model diverged in training.
    """
    sampling, tokenizer = request.sampling, request.tokenizer
    beams, power = max(request.num_samples, sampling.beams), sampling.length_penalty
    active = [request.new_sample()]
    finished: list[Sample] = []

    def score(sample: Sample, length: int | None = None) -> float:
        return sample.search_logprob / (length or len(sample.logprobs)) ** power

    with open_context(request) as context:
        for step in range(request.max_new_tokens):
            model_BxV = next_logits(context, tokenizer.vocab_size).float()
            token_ids = [sample.tokens for sample in active]
            search_BxV = apply_penalties(model_BxV, sampling, token_ids).log_softmax(dim=-1)
            is_last = step == request.max_new_tokens - 1
            expanded = expand_beams(
                active, search_BxV, model_BxV.log_softmax(dim=-1), beams, tokenizer.eot, is_last
            )
            finished += [sample for _, sample in expanded if sample.finish_reason]
            finished = sorted(finished, key=score, reverse=True)[:beams]
            yield finished[: request.num_samples]
            expanded = [(row, sample) for row, sample in expanded if not sample.finish_reason]
            active = [sample for _, sample in expanded]
            longest = request.max_new_tokens if power > 0 else step + 2
            best_active = max((score(sample, longest) for sample in active), default=-torch.inf)
            if not active or (len(finished) == beams and score(finished[-1]) >= best_active):
                return
            context.select([row for row, _ in expanded])
            context.append([sample.tokens[-1] for sample in active])


def expand_beams(
    active: list[Sample], search_BxV: Tensor, model_BxV: Tensor, beams: int, eot: int, is_last: bool
) -> list[tuple[int, Sample]]:
    """Extend the samples by one token and return the most likely results with their source rows.

    Returns `beams` samples that continue, and every finished one more likely than the last of them.

    Args:
        search_BxV: log-probabilities after penalties, by which the search ranks.
        model_BxV: the model's own log-probabilities, which are recorded.
    """
    previous_Bx1 = torch.tensor([[sample.search_logprob] for sample in active])
    totals_N = (previous_Bx1.to(search_BxV) + search_BxV).flatten()
    expanded: list[tuple[int, Sample]] = []
    continuing = 0
    # Each row has one end-of-text, so twice as many candidates contain enough that continue. Stop
    # strings may finish many more.
    candidates = len(totals_N) if active[0].stop else min(2 * beams, len(totals_N))
    for index in totals_N.topk(candidates).indices.tolist():
        row, token = divmod(index, search_BxV.shape[1])
        if continuing == beams or totals_N[index] == -torch.inf:
            break
        sample = active[row].fork()
        sample.search_logprob = float(totals_N[index])
        sample.logprobs.append(float(model_BxV[row, token]))
        sample.append(token, eot, is_last)
        continuing += sample.finish_reason in (None, "length")
        expanded.append((row, sample))
    return expanded
