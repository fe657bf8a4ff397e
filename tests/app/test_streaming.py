"""Generation as a stream of events: the engine's text, probabilities, disconnects."""

import asyncio
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlab.app import streaming
from gptlab.app.job_queue import JobQueue
from gptlab.app.streaming import JobStreamingResponse
from gptlab.config.schema import GenerateConfig, SamplingConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.engine import apply_template
from tests.app.serving import (
    ENDLESS,
    MANY,
    PROMPT,
    Server,
    find_run,
    generate_directly,
    load,
    sample_text,
    token_events,
)


def test_streamed_samples_equal_the_engines(folder: Path, server: Server) -> None:
    settings = {"num_samples": 2, "max_new_tokens": 12, "seed": 5}
    events = server.generate(prompt=PROMPT, sampling={"top_p": 0.9}, **settings)
    samples = generate_directly(load(folder), **settings)
    assert [sample_text(events, i) for i in range(2)] == [sample.text for sample in samples]
    assert [event["event"] for event in (events[0], events[-1])] == ["start", "end"]
    probabilities = [token["probability"] for token in token_events(events, 1)]
    assert probabilities == pytest.approx([math.exp(x) for x in samples[1].logprobs], rel=1e-3)
    assert events[-1]["tokens"] == sum(len(sample.logprobs) for sample in samples)


def test_alternatives_of_a_token_are_the_models_expectation(folder: Path, server: Server) -> None:
    model = load(folder)
    (sample,) = generate_directly(model, num_samples=1, max_new_tokens=10, seed=3)
    tokens = token_events(
        server.generate(prompt=PROMPT, max_new_tokens=10, seed=3, sampling={"top_p": 0.9})
    )
    expectations = token_expectations(model.net, sample.tokens, model.tokenizer.vocab_size)
    expectations = expectations[sample.prompt_length - 1 :]
    for token, expectation in zip(tokens, expectations, strict=False):
        assert token["probability"] == pytest.approx(expectation.probability, rel=1e-2)
        probabilities = [p for _, p in token["alternatives"]]
        assert probabilities == pytest.approx([p for _, p in expectation.likeliest], rel=1e-2)
        assert len(probabilities) == 10
    assert len(expectations) >= len(tokens) - 1 >= 3  # end-of-text is an event, but not in tokens


def test_recording_alternatives_changes_no_sample(folder: Path) -> None:
    model = load(folder)
    plain = generate_directly(model, logprobs=False)
    recorded = generate_directly(model, top_logprobs=3)
    assert [sample.tokens for sample in plain] == [sample.tokens for sample in recorded]
    assert all(len(sample.top_logprobs) == len(sample.logprobs) for sample in recorded)
    assert all(sample.top_logprobs == [] and sample.logprobs == [] for sample in plain)


def test_beam_search_streams_progress_then_its_samples(folder: Path, server: Server) -> None:
    beams = SamplingConfig(beams=3)
    best = generate_directly(load(folder), sampling=beams, max_new_tokens=8)
    request = {"prompt": PROMPT, "max_new_tokens": 8, "sampling": {"beams": 3}}
    events = server.generate(num_samples=2, **request)
    assert [sample_text(events, i) for i in range(2)] == [sample.text for sample in best]
    progress = [event["tokens"] for event in events if event["event"] == "progress"]
    assert progress == list(range(1, len(progress) + 1)) and 1 <= len(progress) <= 8
    stop = best[0].text[3:5]
    assert stop not in sample_text(server.generate(stop=[stop], **request))


def test_stop_string_is_cut_off_and_the_servers_token_limit_applies(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(max_new_tokens=7)
    events = server.generate(prompt=PROMPT, max_new_tokens=500, seed=1)
    text = sample_text(events)
    assert events[-1]["tokens"] <= 7
    stop = text[4:6]
    events = server.generate(prompt=PROMPT, stop=[stop], seed=1)
    assert sample_text(events) == text[: text.find(stop)]
    assert events[-1]["finish_reasons"] == ["stop"]


def test_instruction_is_put_into_its_template(folder: Path, server: Server) -> None:
    model, run = load(folder, "instruct"), find_run(folder, "instruct").name
    request = {"prompt": "Swap the two words.", "input": "cat and king"}
    events = server.generate(run=run, max_new_tokens=1, **request)
    text = apply_template(GenerateConfig(input=request["input"]), model, request["prompt"])
    ids = match_prompt(model.tokenizer, text).ids
    assert events[0]["prompt_tokens"] == len(ids) + model.eot_first


def wait_until_idle(server: Server) -> None:
    """Wait until the only turn is free again; without a queue a second request gets HTTP 429."""
    deadline = time.monotonic() + 5
    while server.request("/api/generate", {"prompt": PROMPT, "max_new_tokens": 1})[0] == 429:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_disconnecting_stops_the_computation(start_server: Callable[..., Server]) -> None:
    server = start_server(max_new_tokens=MANY, max_queue=0)
    with server.streaming(**ENDLESS) as response:
        response.readline()
        status, body = server.request("/api/generate", {"prompt": PROMPT, "max_new_tokens": 1})
        assert status == 429 and "try again" in body["error"]
    wait_until_idle(server)
    # A beam search sends no text before its end, and stops as well.
    search = {"prompt": PROMPT, "max_new_tokens": 20_000, "sampling": {"beams": 16}}
    with server.streaming(**search) as response:
        events = [json.loads(response.readline())["event"] for _ in range(3)]
        assert events == ["start", "progress", "progress"]
    wait_until_idle(server)


def test_checkpoint_that_is_deleted_replaced_or_damaged(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(max_new_tokens=MANY)
    checkpoints = find_run(tmp_path, "story") / "checkpoints"
    with server.streaming(checkpoint="step_2", **ENDLESS) as response:
        assert json.loads(response.readline())["step"] == 2
        (checkpoints / "step_2.ckpt").unlink()
        assert all(json.loads(response.readline())["event"] == "token" for _ in range(20))
    status, body = server.request("/api/generate", {"prompt": PROMPT, "checkpoint": "step_2"})
    assert status == 404 and "there is no checkpoint step_2" in body["error"]
    shutil.copy(checkpoints / "step_4.ckpt", checkpoints / "step_2.ckpt")
    events = server.generate(prompt=PROMPT, checkpoint="step_2", max_new_tokens=1)
    assert events[0]["step"] == 4
    (checkpoints / "step_4.ckpt").write_bytes(b"damaged")
    status, body = server.request("/api/generate", {"prompt": PROMPT, "checkpoint": "step_4"})
    assert status == 400 and "not a checkpoint" in body["error"]
    shutil.rmtree(checkpoints.parent)
    assert server.request("/api/generate", {"prompt": PROMPT})[0] == 404
    names = {run["name"][18:] for run in server.request("/api/runs")[1]}
    assert names == {"instruct", "spam"}


def count(numbers: list[int]) -> Iterator[int]:
    for number in itertools.count():
        numbers.append(number)
        yield number


async def never() -> Any:
    return await asyncio.Event().wait()


@pytest.mark.fast
def test_connection_of_a_client_that_stops_reading_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "SEND_TIMEOUT", 0.1)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await never()

    async def run() -> list[int]:
        queue, numbers = JobQueue(0), []
        response = JobStreamingResponse(queue, lambda: count(numbers))
        await asyncio.wait_for(response({"type": "http"}, never, send), 5)
        assert queue.num_jobs == 0
        return [x async for batch in queue.run(lambda: (yield from range(3))) for x in batch]

    assert asyncio.run(run()) == [0, 1, 2]


@pytest.mark.fast
@pytest.mark.parametrize("fails_at", [0, 1])
def test_error_is_a_status_before_the_first_event_and_an_event_after_it(fails_at: int) -> None:
    messages: list[dict[str, Any]] = []

    def job() -> Iterator[int]:
        yield from range(fails_at)
        raise streaming.UserError("no such thing")

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(JobStreamingResponse(JobQueue(0), job)({"type": "http"}, never, send))
    assert messages[0]["status"] == (200 if fails_at else 400)
    lines = b"".join(each.get("body", b"") for each in messages).splitlines()
    assert [json.loads(line) for line in lines] == [*range(fails_at), {"error": "no such thing"}]


@pytest.mark.fast
def test_client_that_leaves_the_queue_frees_its_place() -> None:
    async def disconnect() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def run() -> None:
        queue = JobQueue(1)
        running = queue.run(lambda: count([]))
        await anext(running)
        response = JobStreamingResponse(queue, lambda: count([]))
        await asyncio.wait_for(response({"type": "http"}, disconnect, disconnect), 5)
        assert queue.num_jobs == 1
        await running.aclose()

    asyncio.run(run())
