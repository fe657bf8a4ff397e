"""Beam search: the likeliest whole texts, as far as a few beginnings kept at each step find."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.data.tokenizer import Tokenizer
from gptlab.generation.context import Context
from gptlab.generation.engine import grow, next_logits, writing
from gptlab.generation.sampling import penalised
from gptlab.generation.text import Sample, TextStream
from gptlab.model.gpt import GPT


@torch.inference_mode()
def beam_search(
    net: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    sampling: SamplingConfig,
    n: int = 1,
    max_new_tokens: int = 100,
    *,
    stop: Sequence[str] = (),
    cached: bool = True,
) -> list[Sample]:
    """The best n of the texts found, the best first: by log-probability / length ** penalty.

    At each step the `sampling.beams` likeliest beginnings are kept; the length counts the tokens
    written, end-of-text included. Of the sampling settings the two penalties for repetition apply.
    It ends when no beginning can become better than the worst of as many finished texts.
    Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711; the
    length penalty is that of Wu and others (2016), arXiv:1609.08144, as a power of the length.

    Raises UserError for a model that diverged.
    """
    beams, power = max(n, sampling.beams), sampling.length_penalty
    alive = [Sample(TextStream(tokenizer), list(prompt), len(prompt), stop)]
    finished: list[Sample] = []

    def score(sample: Sample, length: int | None = None) -> float:
        return sum(sample.logprobs) / (length or len(sample.logprobs)) ** power

    with writing(net):
        context = Context(net, prompt, len(prompt) + max_new_tokens, cached)
        for number in range(max_new_tokens):
            logits_BxV = next_logits(context, tokenizer).float()
            logits_BxV = penalised(logits_BxV, sampling, [sample.tokens for sample in alive])
            last = number == max_new_tokens - 1
            found = expand(alive, logits_BxV.log_softmax(dim=-1), beams, tokenizer.eot, last)
            finished += [sample for _, sample in found if sample.ended]
            finished = sorted(finished, key=score, reverse=True)[:beams]
            going = [(row, sample) for row, sample in found if not sample.ended]
            alive = [sample for _, sample in going]
            longest = max_new_tokens if power > 0 else number + 2
            hope = max((score(sample, longest) for sample in alive), default=-torch.inf)
            if not alive or (len(finished) == beams and score(finished[-1]) >= hope):
                break
            context.take([row for row, _ in going])
            context.append([sample.tokens[-1] for sample in alive])
    return finished[:n]


def expand(
    alive: list[Sample], logprobs_BxV: Tensor, beams: int, eot: int, last: bool
) -> list[tuple[int, Sample]]:
    """The likeliest next texts with the rows they come from: `beams` that go on, and those that
    ended and are likelier than the last of these."""
    before_Bx1 = torch.tensor([[sum(sample.logprobs)] for sample in alive])
    totals_N = (before_Bx1.to(logprobs_BxV) + logprobs_BxV).flatten()
    found: list[tuple[int, Sample]] = []
    going = 0
    # Each row has one end-of-text: among twice as many there are enough that go on.
    for index in totals_N.topk(min(2 * beams, len(totals_N))).indices.tolist():
        row, token = divmod(index, logprobs_BxV.shape[1])
        logprob = float(logprobs_BxV[row, token])
        if going == beams or logprob == -torch.inf:
            break
        sample = alive[row].branch()
        sample.logprobs.append(logprob)
        grow(sample, token, eot, last)
        going += sample.ended is None or sample.ended == "length"
        found.append((row, sample))
    return found
