"""A text as events: first what is read, then each token as it is written, then how it ended."""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gptlab.config.schema import GenerateConfig
from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer, decode
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.beam import beam_steps
from gptlab.generation.engine import (
    apply_template,
    encode_prompt,
    generate_steps,
    request_from_config,
)
from gptlab.generation.sample import Sample
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError


@dataclass
class Piece:
    """What a sample has grown by: a token, and the text that became certain with it."""

    sample: int
    token: int
    text: str
    logprob: float
    likeliest: list[tuple[int, float]]  # ids and their log-probabilities
    ended: str | None  # end_of_text | stop | length


@dataclass
class Searched:
    """A search with beams has come so many tokens far, and has nothing to show before its end."""

    tokens: int


def ready(model: LoadedModel, unknown: str = "error") -> LoadedModel:
    """The model, if it writes; raises UserError."""
    if model.net.config.n_classes:
        raise UserError("this model tells classes apart and cannot write; ask /api/classify")
    if isinstance(model.tokenizer, VocabularyTokenizer):
        model.tokenizer.unknown = unknown
    return model


def pieces(
    model: LoadedModel, prompt: list[int], config: GenerateConfig, likeliest: int
) -> Iterator[Piece]:
    """The tokens of all samples in the order in which they are written."""
    shown, told = [0] * config.num_samples, [0] * config.num_samples
    request = request_from_config(config, model, prompt)
    for samples in generate_steps(replace(request, logprobs=True, top_logprobs=likeliest)):
        for i, sample in enumerate(samples):
            if len(sample.logprobs) > told[i]:
                text = sample.text[shown[i] :]
                shown[i], told[i] = len(sample.text), len(sample.logprobs)
                token = last_token(sample, model.tokenizer)
                others = sample.top_logprobs[-1] if likeliest else []
                yield Piece(i, token, text, sample.logprobs[-1], others, sample.finish_reason)


def last_token(sample: Sample, tokenizer: Tokenizer) -> int:
    return tokenizer.eot if sample.finish_reason == "end_of_text" else sample.tokens[-1]


def found_pieces(
    model: LoadedModel, prompt: list[int], config: GenerateConfig, likeliest: int
) -> Iterator[Piece | Searched]:
    """Those of a search with beams, after how far it has come."""
    request = request_from_config(config, model, prompt)
    samples: list[Sample] = []
    for number, best in enumerate(beam_steps(request), 1):
        samples = best
        yield Searched(number)
    for i, sample in enumerate(samples):
        eot = model.tokenizer.eot
        written = sample.predicted_tokens
        others = beside(model, sample, len(written), likeliest)
        again = request.new_sample()
        for number, token in enumerate(written):
            before, last = len(again.text), number == len(written) - 1
            again.append(token, eot, is_last=last)
            ended = sample.finish_reason if last else None
            text = again.text[before:]
            yield Piece(i, token, text, sample.logprobs[number], others[number], ended)


def beside(
    model: LoadedModel, sample: Sample, count: int, most: int
) -> list[list[tuple[int, float]]]:
    """The likeliest tokens at each place; of texts longer than the window, none."""
    ids = [*sample.tokens[: sample.prompt_length], *sample.predicted_tokens]
    if not most or len(ids) - 1 > model.net.config.window:
        return [[]] * count
    found = token_expectations(model.net, ids, model.tokenizer.vocab_size, most)[-count:]
    return [[(token, math.log(max(p, 1e-30))) for token, p in each.likeliest] for each in found]


def events(
    model: LoadedModel, config: GenerateConfig, likeliest: int
) -> Generator[dict[str, Any], None, None]:
    """As the page reads them: `begin`, then `token` after `token`, then `end`; of a search with
    beams first `searched` after `searched`."""
    began = time.perf_counter()
    ready(model, config.unknown)
    prompt = encode_prompt(
        model.tokenizer, apply_template(config, model, config.prompt), model.eot_first
    )
    window = model.net.config.window
    yield {
        "event": "begin",
        "step": model.step,
        "prompt_tokens": len(prompt),
        "window": window,
        "max_new_tokens": config.max_new_tokens,
    }
    count, ended, nats = 0, [None] * config.num_samples, [[] for _ in range(config.num_samples)]
    source = found_pieces if config.sampling.beams > 1 else pieces
    for piece in source(model, prompt, config, likeliest):
        if isinstance(piece, Searched):
            yield {"event": "searched", "tokens": piece.tokens}
            continue
        count += 1
        ended[piece.sample] = piece.ended
        nats[piece.sample].append(-piece.logprob)
        yield shown(piece, model.tokenizer)
    seconds = time.perf_counter() - began
    yield {
        "event": "end",
        "ended": ended,
        "nats_per_token": [sum(each) / max(1, len(each)) for each in nats],
        "tokens": count,
        "seconds": seconds,
        "tokens_per_second": count / max(seconds, 1e-9),
    }


def shown(piece: Piece, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token with its probability under the model, before any setting, and those it beat."""
    return {
        "event": "token",
        "sample": piece.sample,
        "text": piece.text,
        "token": word(tokenizer, piece.token),
        "probability": rounded(piece.logprob),
        "likeliest": [[word(tokenizer, id), rounded(logprob)] for id, logprob in piece.likeliest],
        "ended": piece.ended,
    }


def word(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; end-of-text has a name."""
    return "<|endoftext|>" if token == tokenizer.eot else decode(tokenizer, [token])


def rounded(logprob: float) -> float:
    """The probability, to four digits."""
    return float(f"{math.exp(logprob):.4g}")
