"""Writing with a model: token by token, several samples at once."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.config.schema import SamplingConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.prompt_templates import TEMPLATES
from gptlab.data.tokenizer import Tokenizer
from gptlab.generation.context import ContextWindow
from gptlab.generation.quantize import fast_linears
from gptlab.generation.sample import Sample, TextStream
from gptlab.generation.sampling import candidate_probabilities, sample_columns
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError, resolve_choice
from gptlab.utils.hashing import derive_seed


def encode_prompt(tokenizer: Tokenizer, prompt: str, eot_first: bool) -> list[int]:
    """The ids a text begins with; without any prompt, end-of-text, after which a text begins.

    Raises UserError for characters that the vocabulary lacks.
    """
    ids = tokenizer.encode(prompt)
    return [tokenizer.eot, *ids] if eot_first or not ids else ids


def training_prompt(config: TrainConfig, corpus: Corpus) -> list[int]:
    """What a run's samples begin with: its prompt, or the first ten tokens held out, or all of the
    first instruction."""
    data, eot = config.data, corpus.tokenizer.eot
    if config.prompt is None:
        length = int(corpus.marks("valid")[0]) if data.task == "instructions" else 10
        ids = [token for token in corpus.tokens("valid")[:length].tolist() if token != eot]
        return [eot, *ids] if data.eot_first or not ids else ids
    prompt = config.prompt
    if data.task == "instructions":
        prompt = resolve_choice("data.template", data.template, TEMPLATES)(prompt)
    return encode_prompt(corpus.tokenizer, prompt, data.eot_first)


@torch.inference_mode()
def generate_steps(
    net: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    sampling: SamplingConfig,
    num_samples: int = 1,
    max_new_tokens: int = 100,
    seed: int = 0,
    *,
    stop: Sequence[str] = (),
    scored: bool = False,
    likeliest: int = 0,
    cached: bool = True,
) -> Iterator[list[Sample]]:
    """Yields the n samples after each token that they have grown by.

    A sample ends at end-of-text, which is not written, or where its text holds one of `stop`. Each
    draws from a generator of its own, so sample i is the same text in whatever company it is
    written. `scored` keeps each token's log-probability under the model, before any sampling
    setting, and beside it those of so many of the `likeliest` tokens there. Context says what the
    model sees of a long text.

    Raises UserError for a model that diverged.
    """
    draws = [
        torch.Generator().manual_seed(derive_seed(seed, number)) for number in range(num_samples)
    ]
    samples = [Sample(TextStream(tokenizer), list(prompt), len(prompt), stop) for _ in draws]
    going = list(range(num_samples))  # those that have not ended, a row of the context each
    with generation_mode(net):
        context = ContextWindow(net, prompt, len(prompt) + max_new_tokens, cached)
        logits_BxV = next_logits(context, tokenizer).expand(num_samples, -1)
        context.take([0] * num_samples)  # the prompt is read once for all
        for number in range(max_new_tokens):
            if number:
                logits_BxV = next_logits(context, tokenizer)
            texts = [samples[i].tokens for i in going]
            probabilities_BxC, ids_BxC = candidate_probabilities(logits_BxV, sampling, texts)
            columns = sample_columns(probabilities_BxC, [draws[i] for i in going])
            tokens = [int(ids_BxC[row, column]) for row, column in enumerate(columns)]
            if scored:
                record_logprobs([samples[i] for i in going], logits_BxV, tokens, likeliest)
            last = number == max_new_tokens - 1
            for i, token in zip(going, tokens, strict=True):
                append_token(samples[i], token, tokenizer.eot, last)
            yield samples
            rows = [row for row, i in enumerate(going) if samples[i].ended is None]
            if not rows:
                return
            going = [going[row] for row in rows]
            context.take(rows)
            context.append([tokens[row] for row in rows])


@contextlib.contextmanager
def generation_mode(net: GPT) -> Iterator[None]:
    """Within, without dropout, and quick for a few tokens at a time."""
    was_training = net.training
    net.eval()
    try:
        with fast_linears(net):
            yield
    finally:
        net.train(was_training)


def record_logprobs(
    samples: list[Sample], logits_BxV: Tensor, tokens: list[int], likeliest: int
) -> None:
    logits_BxV = logits_BxV.float()
    of_all_B = logits_BxV.logsumexp(dim=-1)
    for row, (sample, token) in enumerate(zip(samples, tokens, strict=True)):
        sample.logprobs.append(float(logits_BxV[row, token] - of_all_B[row]))
    if not likeliest:
        return
    top = logits_BxV.topk(min(likeliest, logits_BxV.shape[-1]))
    logprobs_BxK = (top.values - of_all_B[:, None]).tolist()
    for sample, ids, logprobs in zip(samples, top.indices.tolist(), logprobs_BxK, strict=True):
        sample.likeliest.append(list(zip(ids, logprobs, strict=True)))


def append_token(sample: Sample, token: int, eot: int, last: bool) -> None:
    """By a token; end-of-text, a stop text and the last token that was asked for end it."""
    if token == eot:
        sample.end("end_of_text")
    else:
        sample.add(token)
        if last and sample.ended is None:
            sample.end("length")


def next_logits(context: ContextWindow, tokenizer: Tokenizer) -> Tensor:
    """(B, V), with the ids that only pad the table impossible."""
    logits_BxV = context.logits()
    logits_BxV[:, tokenizer.vocab_size :] = float("-inf")
    if not logits_BxV[:, : tokenizer.vocab_size].isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits_BxV
