"""`/v1/completions` as OpenAI's clients ask it, so that they work with a model of yours."""

import codecs
import json
import math
import random
import time
import uuid
from collections.abc import Callable, Generator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gptlab.app.generate_stream import Piece, pieces, ready, word
from gptlab.config.schema import GenerateConfig, SamplingConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.engine import encode_prompt
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError

FINISH = {"end_of_text": "stop", "stop": "stop", "length": "length", None: None}
Ids = list[int]


class Completion(BaseModel):
    """OpenAI's fields, those that mean something here, and the sampling settings of our own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(max_length=400, description="A run, or RUN:CHECKPOINT, or `gptlab`.")
    prompt: str | list[str] | Ids | list[Ids] = Field("", description="Texts, or their tokens.")
    max_tokens: int = Field(16, ge=0, description="More than the server allows is taken for that.")
    n: int = Field(1, ge=1, le=8)
    best_of: int | None = Field(None, ge=1, le=8)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float | None = Field(None, ge=1e-9, le=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0, le=2**53)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    suffix: None = None
    presence_penalty: float = Field(0, ge=0, le=0, description="Not here: repetition_penalty.")
    frequency_penalty: float = Field(0, ge=0, le=0, description="Not here: repetition_penalty.")
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    top_k: int | None = Field(None, ge=1, description="Ours, as in /api/write.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.001, le=100)
    no_repeat_ngram: int | None = Field(None, ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def null_is_not_given(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}

    def prompts(self) -> list[str | Ids]:
        """One or several; raises UserError for none, or more than eight."""
        several = isinstance(self.prompt, list) and not all(
            isinstance(each, int) for each in self.prompt
        )
        found = self.prompt if several else [self.prompt]
        if not 1 <= len(found) <= 8:
            raise UserError("prompt: give one, or up to eight")
        return found

    def stops(self) -> list[str]:
        """Raises UserError for more than eight."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > 8:
            raise UserError("stop: give up to eight texts")
        return [text for text in given if text]

    def as_config(self, most: int, seed: int) -> GenerateConfig:
        """As generate.py's configuration; raises UserError for what cannot be."""
        if self.max_tokens == 0 and not self.echo:
            raise UserError("max_tokens: 0 is for echo, which gives the prompt back")
        samples = self.best_of or self.n
        if samples < self.n or (self.stream and samples > self.n):
            raise UserError("best_of: must be at least n, and cannot be streamed")
        sampling = SamplingConfig(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
        )
        length = min(self.max_tokens, most)
        stop = self.stops()
        return GenerateConfig(
            num_samples=samples, max_new_tokens=length, stop=stop, seed=seed, sampling=sampling
        )


def as_ids(model: LoadedModel, prompt: str | Ids) -> Ids:
    """A prompt's tokens; raises UserError for a number that is no token."""
    if isinstance(prompt, str):
        return encode_prompt(model.tokenizer, prompt, model.eot_first)
    if not prompt or not all(0 <= id < model.tokenizer.vocab_size for id in prompt):
        raise UserError(f"prompt: tokens are numbers from 0 to {model.tokenizer.vocab_size - 1:,}")
    return prompt


class Talk:
    """One request on its way to a model: chunks as they come, or the whole of them."""

    def __init__(self, asked: Completion, name: str, most: int):
        self.asked = asked
        seed = random.randrange(2**31) if asked.seed is None else asked.seed
        self.config = asked.as_config(most, seed)
        self.prompts = asked.prompts()
        self.read = self.written = 0  # tokens
        created = {"created": int(time.time()), "model": name}
        self.head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", **created}

    def work(
        self, open_model: Callable[[], LoadedModel]
    ) -> Generator[tuple[Piece | str, dict[str, Any]], None, None]:
        """Each token as (piece, choice); an echoed prompt as (its text, choice)."""
        model = ready(open_model())
        all_ids = [as_ids(model, prompt) for prompt in self.prompts]
        for number, ids in enumerate(all_ids):
            self.read += len(ids)
            base, offsets = number * self.config.num_samples, [0] * self.config.num_samples
            if self.asked.echo:
                text, told = self.echoed(model, ids, isinstance(self.prompts[number], str))
                offsets = [len(text)] * self.config.num_samples
                why = None if self.config.max_new_tokens else "length"
                for i in range(self.config.num_samples):
                    yield text, choice(base + i, text, told, why)
            if not self.config.max_new_tokens:
                continue
            for piece in pieces(model, ids, self.config, self.asked.logprobs or 0):
                self.written += 1
                told = None
                if self.asked.logprobs is not None:
                    told = logprobs(model, piece, offsets[piece.sample])
                offsets[piece.sample] += len(piece.text)
                why = FINISH[piece.ended]
                yield piece, choice(base + piece.sample, piece.text, told, why)

    def echoed(
        self, model: LoadedModel, ids: Ids, is_text: bool
    ) -> tuple[str, dict[str, Any] | None]:
        """The prompt, and the log-probabilities of its tokens if they are asked for."""
        eot = model.tokenizer.eot
        text = decode(model.tokenizer, [id for id in ids if id != eot])
        if self.asked.logprobs is None:
            return text, None
        told = prompt_logprobs(model, ids, self.asked.logprobs)
        if is_text and ids[0] == eot:  # it was put before the text, and is none of it
            told = {name: each[1:] for name, each in told.items()}
        return text, told

    def usage(self) -> dict[str, int]:
        total = self.read + self.written
        counts = {"prompt_tokens": self.read, "completion_tokens": self.written}
        return counts | {"total_tokens": total}

    def whole(self, events: list[tuple[Piece | str, dict[str, Any]]]) -> dict[str, Any]:
        """The answer where nothing is streamed."""
        choices: dict[int, dict[str, Any]] = {}
        scores: dict[int, list[float]] = {}
        for piece, part in events:
            index = part["index"]
            if isinstance(piece, Piece):
                scores.setdefault(index, []).append(piece.logprob)
            choices[index] = joined(choices[index], part) if index in choices else part
        best: list[dict[str, Any]] = []
        for number in range(len(self.prompts)):
            mine = [
                choices[number * self.config.num_samples + i]
                for i in range(self.config.num_samples)
            ]
            if self.config.num_samples > self.asked.n:
                mine.sort(key=lambda each: -mean(scores.get(each["index"], [])))
            best += mine[: self.asked.n]
        numbered = [each | {"index": index} for index, each in enumerate(best)]
        return self.head | {"choices": numbered, "usage": self.usage()}

    def chunks(self, events: list[tuple[Piece | str, dict[str, Any]]]) -> bytes:
        """Server-sent events, a chunk each; an error is a chunk too."""
        parts = [e if isinstance(e, dict) else self.head | {"choices": [e[1]]} for e in events]
        return b"".join(sent(part) for part in parts)

    def last(self) -> bytes:
        """What ends a stream."""
        wanted = (self.asked.stream_options or {}).get("include_usage")
        usage = sent(self.head | {"choices": [], "usage": self.usage()}) if wanted else b""
        return usage + b"data: [DONE]\n\n"


def sent(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def choice(index: int, text: str, told: dict[str, Any] | None, why: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": told, "finish_reason": why}


def logprobs(model: LoadedModel, piece: Piece, offset: int) -> dict[str, Any]:
    """Of one token, under the model alone, before any sampling setting."""
    beside = {word(model.tokenizer, id): logprob for id, logprob in piece.likeliest}
    beside.setdefault(word(model.tokenizer, piece.token), piece.logprob)
    return {
        "tokens": [word(model.tokenizer, piece.token)],
        "token_logprobs": [piece.logprob],
        "top_logprobs": [beside],
        "text_offset": [offset],
    }


def prompt_logprobs(model: LoadedModel, ids: Ids, most: int) -> dict[str, Any]:
    """Of all tokens of a prompt; nothing was expected at the first.

    Raises UserError for more than the model sees at once.
    """
    window = model.net.config.window
    if len(ids) > window + 1:
        raise UserError(f"prompt: logprobs with echo are for at most {window + 1:,} tokens")
    size, tokenizer = model.tokenizer.vocab_size, model.tokenizer
    found = token_expectations(model.net, ids, size, most) if len(ids) > 1 else []
    tops: list[dict[str, float] | None] = [None]
    for each in found:
        top = {word(tokenizer, id): math.log(max(p, 1e-30)) for id, p in each.likeliest}
        top.setdefault(word(tokenizer, each.token), -each.nats)
        tops.append(top)
    reader, offsets, length = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    for id in ids:
        offsets.append(length)
        length += 0 if id == tokenizer.eot else len(reader.decode(tokenizer.token_bytes(id)))
    return {
        "tokens": [word(tokenizer, id) for id in ids],
        "token_logprobs": [None, *(-each.nats for each in found)],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def joined(one: dict[str, Any], next: dict[str, Any]) -> dict[str, Any]:
    """Two parts of a choice as one."""
    told = one["logprobs"] or next["logprobs"]
    if one["logprobs"] and next["logprobs"]:
        told = {name: one["logprobs"][name] + next["logprobs"][name] for name in told}
    return next | {"text": one["text"] + next["text"], "logprobs": told}


def mean(numbers: list[float]) -> float:
    return sum(numbers) / max(1, len(numbers))


def as_error(status: int, why: str) -> dict[str, Any]:
    """As OpenAI's clients expect it."""
    usual = "invalid_request_error" if 400 <= status < 500 else "server_error"
    kind = {429: "rate_limit_error", 404: "not_found_error"}.get(status, usual)
    return {"error": {"message": why, "type": kind, "param": None, "code": None}}
