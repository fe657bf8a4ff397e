"""Beam search: the likeliest whole texts, as far as a few beginnings kept at each step find."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gptlab.config.schema import SamplingConfig
from gptlab.data.tokenizer import Tokenizer
from gptlab.generation.context import ContextWindow
from gptlab.generation.engine import append_token, generate_steps, generation_mode, next_logits
from gptlab.generation.sample import Sample, TextStream
from gptlab.generation.sampling import apply_penalties
from gptlab.model.gpt import GPT


def beam_search(*wanted: Any, **settings: Any) -> list[Sample]:
    """The texts that `beam_steps` ends with."""
    *_, found = beam_steps(*wanted, **settings)
    return found


@torch.inference_mode()
def beam_steps(
    net: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    sampling: SamplingConfig,
    num_samples: int = 1,
    max_new_tokens: int = 100,
    *,
    stop: Sequence[str] = (),
    cached: bool = True,
) -> Iterator[list[Sample]]:
    """Yields after each step the best n of the texts found, the best first: by log-probability /
    length ** penalty. The last are the answer.

    At each step the `sampling.beams` likeliest beginnings are kept; the length counts the tokens
    written, end-of-text included. Of the sampling settings the two penalties for repetition apply.
    It ends when no beginning can become better than the worst of as many finished texts.
    Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711; the
    length penalty is that of Wu and others (2016), arXiv:1609.08144, as a power of the length.

    Raises UserError for a model that diverged.
    """
    beams, power = max(num_samples, sampling.beams), sampling.length_penalty
    alive = [Sample(TextStream(tokenizer), list(prompt), len(prompt), stop)]
    finished: list[Sample] = []

    def score(sample: Sample, length: int | None = None) -> float:
        return sample.found / (length or len(sample.logprobs)) ** power

    with generation_mode(net):
        context = ContextWindow(net, prompt, len(prompt) + max_new_tokens, cached)
        for number in range(max_new_tokens):
            own_BxV = next_logits(context, tokenizer).float()
            texts = [sample.tokens for sample in alive]
            search_BxV = apply_penalties(own_BxV, sampling, texts).log_softmax(dim=-1)
            last = number == max_new_tokens - 1
            found = expand_beams(
                alive, search_BxV, own_BxV.log_softmax(dim=-1), beams, tokenizer.eot, last
            )
            finished += [sample for _, sample in found if sample.ended]
            finished = sorted(finished, key=score, reverse=True)[:beams]
            yield finished[:num_samples]
            going = [(row, sample) for row, sample in found if not sample.ended]
            alive = [sample for _, sample in going]
            longest = max_new_tokens if power > 0 else number + 2
            hope = max((score(sample, longest) for sample in alive), default=-torch.inf)
            if not alive or (len(finished) == beams and score(finished[-1]) >= hope):
                return
            context.take([row for row, _ in going])
            context.append([sample.tokens[-1] for sample in alive])


def expand_beams(
    alive: list[Sample], search_BxV: Tensor, own_BxV: Tensor, beams: int, eot: int, last: bool
) -> list[tuple[int, Sample]]:
    """The likeliest next texts with the rows they come from: `beams` that go on, and those that
    ended and are likelier than the last of these. Log-probabilities: those that the search goes by,
    and the model's own."""
    before_Bx1 = torch.tensor([[sample.found] for sample in alive])
    totals_N = (before_Bx1.to(search_BxV) + search_BxV).flatten()
    found: list[tuple[int, Sample]] = []
    going = 0
    # Each row has one end-of-text: among twice as many there are enough that go on. A stop text
    # may end many more.
    most = len(totals_N) if alive[0].stop else min(2 * beams, len(totals_N))
    for index in totals_N.topk(most).indices.tolist():
        row, token = divmod(index, search_BxV.shape[1])
        if going == beams or totals_N[index] == -torch.inf:
            break
        sample = alive[row].branch()
        sample.found = float(totals_N[index])
        sample.logprobs.append(float(own_BxV[row, token]))
        append_token(sample, token, eot, last)
        going += sample.ended is None or sample.ended == "length"
        found.append((row, sample))
    return found


def generate_samples(
    net: GPT, tokenizer: Tokenizer, prompt: list[int], sampling: SamplingConfig, *more: Any,
    bar: str | None = None, **settings: Any,
) -> list[Sample]:  # fmt: skip
    """The samples that `generate` ends with, or `beam_search`, as the settings say.

    The arguments are those of `generate`; of these a beam search draws nothing by a seed, and
    knows all log-probabilities. At a terminal `bar` names a bar of the tokens written.
    """
    wanted = (net, tokenizer, prompt, sampling)
    if sampling.beams > 1:
        given = {k: v for k, v in settings.items() if k not in ("seed", "scored")}
        return beam_search(*wanted, *more[:2], **given)
    off = None if bar else True  # None: only off a terminal
    steps = generate_steps(*wanted, *more, **settings)
    *_, samples = tqdm(steps, desc=bar, unit=" tokens", disable=off, leave=False)
    return samples
