"""Generate text as a stream of events, and send the events of a job over HTTP."""

import asyncio
import contextlib
import json
import math
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Send

from gptlab.app.job_queue import Job, JobQueue, QueueFull
from gptlab.app.model_registry import NotFound
from gptlab.config.schema import GenerateConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import Tokenizer, token_text
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation import engine
from gptlab.generation.beam import beam_steps
from gptlab.generation.engine import request_from_config
from gptlab.generation.sample import Sample
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError, is_out_of_memory

SEND_TIMEOUT = 20.0  # seconds in which a client must read what was sent to it
INTERNAL_ERROR = "internal error; see the server's terminal"


@dataclass
class TokenEvent:
    """One generated token, and the text that became final with it."""

    sample: int
    token: int
    text: str
    logprob: float
    alternatives: list[tuple[int, float]]  # the most likely ids with their log-probabilities
    finish_reason: str | None  # end_of_text | stop | length


@dataclass
class SearchProgress:
    """The number of tokens a beam search has reached; its text is known only at the end."""

    tokens: int


def require_generator(model: LoadedModel) -> LoadedModel:
    """Return the model if it can generate text; raises UserError for a classifier."""
    if model.net.config.n_classes:
        raise UserError("this model is a classifier and cannot generate text; use /api/classify")
    return model


def sampled_tokens(
    model: LoadedModel, prompt: list[int], config: GenerateConfig, num_alternatives: int
) -> Iterator[TokenEvent]:
    """Yield the tokens of all samples in the order in which they are generated."""
    num_chars, num_tokens = [0] * config.num_samples, [0] * config.num_samples
    request = request_from_config(config, model, prompt)
    request = replace(request, logprobs=True, top_logprobs=num_alternatives)
    for samples in engine.generate_steps(request):
        for i, sample in enumerate(samples):
            if len(sample.logprobs) == num_tokens[i]:
                continue
            text = sample.text[num_chars[i] :]
            num_chars[i], num_tokens[i] = len(sample.text), len(sample.logprobs)
            reason = sample.finish_reason
            token = model.tokenizer.eot if reason == "end_of_text" else sample.tokens[-1]
            alternatives = sample.top_logprobs[-1] if num_alternatives else []
            yield TokenEvent(i, token, text, sample.logprobs[-1], alternatives, reason)


def searched_tokens(
    model: LoadedModel, prompt: list[int], config: GenerateConfig, num_alternatives: int
) -> Iterator[TokenEvent | SearchProgress]:
    """Yield the progress of a beam search, then the tokens of its best texts."""
    request = request_from_config(config, model, prompt)
    results: list[Sample] = []
    for number, samples in enumerate(beam_steps(request), 1):
        results = samples
        yield SearchProgress(number)
    for i, sample in enumerate(results):
        tokens = sample.predicted_tokens
        alternatives = searched_alternatives(model, sample, num_alternatives)
        replay = request.new_sample()
        for number, token in enumerate(tokens):
            num_chars, is_last = len(replay.text), number == len(tokens) - 1
            replay.append(token, model.tokenizer.eot, is_last)
            reason = sample.finish_reason if is_last else None
            text = replay.text[num_chars:]
            yield TokenEvent(i, token, text, sample.logprobs[number], alternatives[number], reason)


def searched_alternatives(
    model: LoadedModel, sample: Sample, num_alternatives: int
) -> list[list[tuple[int, float]]]:
    """Return the most likely tokens at each new position; none for a text beyond the window."""
    new_tokens = sample.predicted_tokens
    ids = [*sample.tokens[: sample.prompt_length], *new_tokens]
    if not num_alternatives or len(ids) - 1 > model.net.config.window:
        return [[]] * len(new_tokens)
    expectations = token_expectations(model.net, ids, model.tokenizer.vocab_size, num_alternatives)
    return [
        [(token, math.log(max(p, 1e-30))) for token, p in each.likeliest]
        for each in expectations[-len(new_tokens) :]
    ]


def generate_events(
    model: LoadedModel, config: GenerateConfig, num_alternatives: int
) -> Generator[dict[str, Any], None, None]:
    """Yield `start`, one `token` per token, and `end`; a beam search yields `progress` first."""
    start_time = time.perf_counter()
    require_generator(model)
    text = engine.apply_template(config, model, config.prompt or "")
    match = match_prompt(model.tokenizer, text, config.unknown)
    prompt = engine.start_text(match.ids, model.tokenizer.eot, model.eot_first)
    yield {
        "event": "start",
        "step": model.step,
        "prompt_tokens": len(prompt),
        "skipped": match.skipped,
        "window": model.net.config.window,
        "max_new_tokens": config.max_new_tokens,
    }
    num_tokens = 0
    reasons: list[str | None] = [None] * config.num_samples
    nats: list[list[float]] = [[] for _ in range(config.num_samples)]
    source = searched_tokens if config.sampling.beams > 1 else sampled_tokens
    for event in source(model, prompt, config, num_alternatives):
        if isinstance(event, SearchProgress):
            yield {"event": "progress", "tokens": event.tokens}
            continue
        num_tokens += 1
        reasons[event.sample] = event.finish_reason
        nats[event.sample].append(-event.logprob)
        yield token_event_json(event, model.tokenizer)
    seconds = time.perf_counter() - start_time
    yield {
        "event": "end",
        "finish_reasons": reasons,
        "nats_per_token": [sum(each) / max(1, len(each)) for each in nats],
        "tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_second": num_tokens / max(seconds, 1e-9),
    }


def token_event_json(event: TokenEvent, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a token event with the model's own probabilities, before any sampling setting."""
    return {
        "event": "token",
        "sample": event.sample,
        "text": event.text,
        "token": token_text(tokenizer, event.token),
        "probability": round_probability(math.exp(event.logprob)),
        "alternatives": [
            [token_text(tokenizer, id), round_probability(math.exp(logprob))]
            for id, logprob in event.alternatives
        ],
        "finish_reason": event.finish_reason,
    }


def round_probability(probability: float) -> float:
    return float(f"{probability:.4g}")


def describe_error(error: Exception) -> tuple[int, str]:
    """Return status and message; print the traceback of a bug on the server's terminal."""
    if isinstance(error, QueueFull):
        return 429, str(error)
    if isinstance(error, UserError):
        return 404 if isinstance(error, NotFound) else 400, error.line()
    if is_out_of_memory(error):
        return 503, "out of memory: try fewer samples or a smaller model"
    traceback.print_exception(error, file=sys.stderr)
    return 500, INTERNAL_ERROR


def error_json(status: int, message: str) -> dict[str, Any]:
    return {"error": message}


def encode_json_lines(events: list[Any]) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


class JobStreamingResponse(StreamingResponse):
    """Send a job's events as they are computed; stop the job when the client disconnects.

    The status is sent with the first event, so an error before it has its own status. An error
    after it becomes an event.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        queue: JobQueue,
        job: Job[Any],
        encode: Callable[[list[Any]], bytes] = encode_json_lines,
        format_error: Callable[[int, str], Any] = error_json,
        media_type: str | None = None,
        final_chunk: Callable[[], bytes] = bytes,
    ):
        super().__init__(iter(()), media_type=media_type)
        self.batches = queue.run(job)
        self.encode = encode
        self.format_error = format_error
        self.final_chunk = final_chunk

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            await asyncio.wait_for(send(message), SEND_TIMEOUT)

        # Close the connection of a client that stops reading, so that others get their turn.
        with contextlib.suppress(TimeoutError):
            async with contextlib.aclosing(self.batches):
                await self.prepare()
                await super().stream_response(send_in_time)

    async def prepare(self) -> None:
        """Wait for the first event, which decides the status."""
        try:
            self.body_iterator = self.encoded_chunks(await anext(self.batches, []))
        except Exception as error:
            self.replace_by(error_response(error, self.format_error))

    async def encoded_chunks(self, first: list[Any]) -> AsyncGenerator[bytes, None]:
        yield self.encode(first)
        try:
            async for events in self.batches:
                yield self.encode(events)
        except Exception as error:
            yield self.encode([self.format_error(*describe_error(error))])
        yield self.final_chunk()

    def replace_by(self, response: Response) -> None:
        self.status_code, self.raw_headers = response.status_code, response.raw_headers
        self.body_iterator = single_chunk(bytes(response.body))


class JobResponse(JobStreamingResponse):
    """Send one JSON object when the job is done: its last event, or `join` of all events."""

    def __init__(
        self,
        queue: JobQueue,
        job: Job[Any],
        join: Callable[[list[Any]], Any] = list.pop,
        format_error: Callable[[int, str], Any] = error_json,
    ):
        super().__init__(queue, job, format_error=format_error)
        self.join = join

    async def prepare(self) -> None:
        try:
            events = [event async for batch in self.batches for event in batch]
            response = JSONResponse(self.join(events))
        except Exception as error:
            response = error_response(error, self.format_error)
        self.replace_by(response)


async def single_chunk(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


def error_response(
    error: Exception, format_error: Callable[[int, str], Any] = error_json
) -> JSONResponse:
    status, message = describe_error(error)
    headers = {"retry-after": "2"} if status == 429 else None
    return JSONResponse(format_error(status, message), status, headers)
