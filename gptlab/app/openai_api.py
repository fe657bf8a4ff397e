"""`/v1/completions` as OpenAI defines it, so that OpenAI's clients work with a gptlab model."""

import codecs
import json
import math
import random
import time
import uuid
from collections.abc import Generator
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gptlab.app.streaming import TokenEvent, require_generator, sampled_tokens
from gptlab.config.schema import GenerateConfig, SamplingConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import decode, token_text
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.engine import start_text
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError

SAMPLING_FIELDS = set("temperature top_p top_k min_p repetition_penalty no_repeat_ngram".split())
FINISH_REASONS = {"end_of_text": "stop", "stop": "stop", "length": "length", None: None}
MAX_PROMPTS = MAX_STOPS = 8
Ids = list[int]
ChoiceJson = dict[str, Any]  # OpenAI's `choice` object, or a part of it
Logprobs = dict[str, list[Any]]
CompletionEvent = tuple[TokenEvent | None, ChoiceJson]  # no token: an echoed prompt


class CompletionRequest(BaseModel):
    """OpenAI's fields that apply here, and gptlab's own sampling settings."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(max_length=400, description="RUN, RUN:CHECKPOINT, or gptlab: the default")
    prompt: str | list[str] | Ids | list[Ids] = Field("", description="texts or token ids")
    max_tokens: int = Field(16, ge=0, description="the server's limit applies")
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
    presence_penalty: float = Field(0, ge=0, le=0, description="use repetition_penalty instead")
    frequency_penalty: float = Field(0, ge=0, le=0, description="use repetition_penalty instead")
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    top_k: int | None = Field(None, ge=1, description="gptlab's, as in /api/generate")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.001, le=100)
    no_repeat_ngram: int | None = Field(None, ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, values: Any) -> Any:
        """Use the default of a field that is null."""
        is_dict = isinstance(values, dict)
        return {n: v for n, v in values.items() if v is not None} if is_dict else values

    def prompts(self) -> list[str | Ids]:
        """Return one or several prompts; raises UserError for none or too many."""
        prompt = self.prompt
        single = isinstance(prompt, str) or all(isinstance(each, int) for each in prompt)
        prompts: list[Any] = [prompt] if single else list(prompt)
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise UserError(f"prompt: must be 1 to {MAX_PROMPTS} prompts")
        return prompts

    def stops(self) -> list[str]:
        """Return the stop strings; raises UserError for too many."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS:
            raise UserError(f"stop: must be at most {MAX_STOPS} texts")
        return [text for text in stops if text]

    def to_config(self, max_new_tokens: int) -> GenerateConfig:
        """Return the configuration generate.py would use, with the server's token limit.

        Raises UserError for fields that contradict each other.
        """
        if self.max_tokens == 0 and not self.echo:
            raise UserError("max_tokens=0 needs echo=true; otherwise there is nothing to return")
        num_samples = self.best_of or self.n
        if num_samples < self.n:
            raise UserError(f"best_of={self.best_of}: must be at least n={self.n}")
        if self.stream and num_samples > self.n:
            raise UserError(f"best_of={self.best_of}: cannot be streamed")
        return GenerateConfig(
            num_samples=num_samples,
            max_new_tokens=min(self.max_tokens, max_new_tokens),
            stop=self.stops(),
            seed=random.randrange(2**31) if self.seed is None else self.seed,
            sampling=SamplingConfig(**self.model_dump(include=SAMPLING_FIELDS)),
        )


class CompletionJob:
    """One request: generate its events, and format them as a stream or as one response."""

    def __init__(self, request: CompletionRequest, max_new_tokens: int):
        self.request = request
        self.config = request.to_config(max_new_tokens)
        self.prompts = request.prompts()
        self.prompt_tokens = self.completion_tokens = 0
        created = {"created": int(time.time()), "model": request.model}
        self.header: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
        } | created

    def events(self, model: LoadedModel) -> Generator[CompletionEvent, None, None]:
        """Yield each token with its choice; an echoed prompt comes first, without a token."""
        require_generator(model)
        prompts = [self.encode(model, prompt) for prompt in self.prompts]
        for number, ids in enumerate(prompts):
            self.prompt_tokens += len(ids)
            first_index = number * self.config.num_samples
            offsets = [0] * self.config.num_samples
            if self.request.echo:
                text, logprobs = self.echo(model, ids, isinstance(self.prompts[number], str))
                offsets = [len(text)] * self.config.num_samples
                reason = None if self.config.max_new_tokens else "length"
                for i in range(self.config.num_samples):
                    yield None, make_choice(first_index + i, text, logprobs, reason)
            if not self.config.max_new_tokens:
                continue
            num_alternatives = self.request.logprobs or 0
            for event in sampled_tokens(model, ids, self.config, num_alternatives):
                self.completion_tokens += 1
                logprobs = None
                if self.request.logprobs is not None:
                    logprobs = token_logprobs(model, event, offsets[event.sample])
                offsets[event.sample] += len(event.text)
                reason = FINISH_REASONS[event.finish_reason]
                index = first_index + event.sample
                yield event, make_choice(index, event.text, logprobs, reason)

    def encode(self, model: LoadedModel, prompt: str | Ids) -> Ids:
        """Return a prompt's token ids; raises UserError for an id outside the vocabulary.

        Words that the model never saw are skipped and named in the response, but refused where the
        prompt is scored.
        """
        if isinstance(prompt, str):
            is_scored = self.request.echo and self.request.logprobs is not None
            match = match_prompt(model.tokenizer, prompt, "error" if is_scored else "skip")
            if match.skipped:
                self.header.setdefault("skipped", []).extend(match.skipped)
            return start_text(match.ids, model.tokenizer.eot, model.eot_first)
        if not prompt or not all(0 <= id < model.tokenizer.vocab_size for id in prompt):
            raise UserError(f"prompt: token ids must be 0 to {model.tokenizer.vocab_size - 1:,}")
        return prompt

    def echo(self, model: LoadedModel, ids: Ids, is_text: bool) -> tuple[str, Logprobs | None]:
        """Return the prompt's text, and the log-probabilities of its tokens if requested."""
        eot = model.tokenizer.eot
        text = decode(model.tokenizer, [id for id in ids if id != eot])
        if self.request.logprobs is None:
            return text, None
        logprobs = prompt_logprobs(model, ids, self.request.logprobs)
        if is_text and ids[0] == eot:  # added before the text, not part of it
            logprobs = {name: values[1:] for name, values in logprobs.items()}
        return text, logprobs

    def usage(self) -> dict[str, int]:
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return counts | {"total_tokens": sum(counts.values())}

    def response(self, events: list[CompletionEvent]) -> dict[str, Any]:
        """Return the whole response, for a request that does not stream."""
        choices: dict[int, ChoiceJson] = {}
        logprobs: dict[int, list[float]] = {}
        for event, choice in events:
            index = choice["index"]
            if event:
                logprobs.setdefault(index, []).append(event.logprob)
            choices[index] = join_choices(choices[index], choice) if index in choices else choice
        selected: list[ChoiceJson] = []
        num_samples = self.config.num_samples
        for first in range(0, len(choices), num_samples):
            samples = [choices[first + i] for i in range(num_samples)]
            if num_samples > self.request.n:
                samples.sort(key=lambda each: -fmean(logprobs.get(each["index"], [0.0])))
            selected += samples[: self.request.n]
        numbered = [choice | {"index": index} for index, choice in enumerate(selected)]
        return self.header | {"choices": numbered, "usage": self.usage()}

    def encode_chunks(self, events: list[CompletionEvent | dict[str, Any]]) -> bytes:
        """Encode events as server-sent events; an error is a dict already."""
        return b"".join(
            encode_sse(each if isinstance(each, dict) else self.header | {"choices": [each[1]]})
            for each in events
        )

    def final_chunk(self) -> bytes:
        """Return the last bytes of a stream: the usage if requested, then the end mark."""
        include_usage = (self.request.stream_options or {}).get("include_usage")
        usage = self.header | {"choices": [], "usage": self.usage()}
        return (encode_sse(usage) if include_usage else b"") + b"data: [DONE]\n\n"


def encode_sse(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def make_choice(index: int, text: str, logprobs: Logprobs | None, reason: str | None) -> ChoiceJson:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def token_logprobs(model: LoadedModel, event: TokenEvent, offset: int) -> Logprobs:
    """Return one token's log-probabilities under the model, before any sampling setting."""
    token = token_text(model.tokenizer, event.token)
    top = {token_text(model.tokenizer, id): logprob for id, logprob in event.alternatives}
    top.setdefault(token, event.logprob)
    return {
        "tokens": [token],
        "token_logprobs": [event.logprob],
        "top_logprobs": [top],
        "text_offset": [offset],
    }


def prompt_logprobs(model: LoadedModel, ids: Ids, num_alternatives: int) -> Logprobs:
    """Return the log-probabilities of a prompt's tokens; the first has none.

    Raises UserError for a prompt longer than the model's window.
    """
    window, tokenizer = model.net.config.window, model.tokenizer
    if len(ids) > window + 1:
        raise UserError(f"prompt: echo with logprobs takes at most {window + 1:,} tokens")
    vocab_size = tokenizer.vocab_size
    expectations = token_expectations(model.net, ids, vocab_size, num_alternatives)
    tops: list[dict[str, float] | None] = [None]
    for each in expectations:
        top = {token_text(tokenizer, id): math.log(max(p, 1e-30)) for id, p in each.likeliest}
        top.setdefault(token_text(tokenizer, each.token), -each.nats)
        tops.append(top)
    decoder, offsets, length = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    for id in ids:
        offsets.append(length)
        length += 0 if id == tokenizer.eot else len(decoder.decode(tokenizer.token_bytes(id)))
    return {
        "tokens": [token_text(tokenizer, id) for id in ids],
        "token_logprobs": [None, *(-each.nats for each in expectations)],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def join_choices(first: ChoiceJson, second: ChoiceJson) -> ChoiceJson:
    """Join two consecutive parts of a choice."""
    logprobs = first["logprobs"] or second["logprobs"]
    if first["logprobs"] and second["logprobs"]:
        logprobs = {name: first["logprobs"][name] + second["logprobs"][name] for name in logprobs}
    return second | {"text": first["text"] + second["text"], "logprobs": logprobs}


def openai_error(status: int, message: str) -> dict[str, Any]:
    """Return an error as OpenAI's clients expect it."""
    usual = "invalid_request_error" if 400 <= status < 500 else "server_error"
    kind = {429: "rate_limit_error", 404: "not_found_error"}.get(status, usual)
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
