"""The page's server: what it answers, whom it refuses, and that nothing makes it hang."""

import asyncio
import importlib.util
import itertools
import json
import math
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from gptlab.app import answers, guard
from gptlab.app.answers import Streamed
from gptlab.app.queue import Queue
from gptlab.app.server import PAGE
from gptlab.config import GenerateConfig, SamplingConfig
from gptlab.evaluation.attention import attention
from gptlab.evaluation.classification import probabilities
from gptlab.evaluation.inside import expectations, logit_lens
from gptlab.generation.beam import beam_search
from gptlab.generation.engine import generate, prompt_ids
from gptlab.generation.write import framed
from gptlab.model.checkpoint import Loaded
from gptlab.model.pretrained import open_model
from tests.serving import Server, runs_of_all_kinds
from tests.test_commands import COMMANDS

PROMPT = "Once upon a time"
ENDLESS = {"sampling": {"temperature": 0}, "max_new_tokens": 1_000_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all three kinds; the one that writes is the latest."""
    return runs_of_all_kinds(tmp_path_factory)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, "max_new_tokens=1000000", "waiting=4")
    yield server
    assert server.end() == 0


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Iterator[Any]:
    """`own("key=value")`: a server of the test's own, with runs of its own."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    servers = []

    def start(*arguments: str) -> Server:
        servers.append(Server(tmp_path, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def run_of(folder: Path, name: str) -> Path:
    (found,) = (folder / "runs").glob(f"*_{name}")
    return found


def model_of(folder: Path, name: str = "story", checkpoint: str = "best") -> Loaded:
    return open_model(run_of(folder, name) / "checkpoints" / f"{checkpoint}.ckpt")


def texts(events: list[dict[str, Any]], n: int = 1) -> list[str]:
    tokens = [event for event in events if event["event"] == "token"]
    return ["".join(t["text"] for t in tokens if t["sample"] == i) for i in range(n)]


def by_hand(model: Loaded, **more: Any) -> list[Any]:
    settings = {"n": 2, "max_new_tokens": 12, "seed": 5, "scored": True} | more
    ids = prompt_ids(model.tokenizer, PROMPT, model.eot_first)
    *_, samples = generate(model.net, model.tokenizer, ids, SamplingConfig(top_p=0.9), **settings)
    return samples


def test_the_command_of_the_readme_opens_the_page(own: Any) -> None:
    (line,) = (command for command in COMMANDS if "gptlab.app" in command)
    status, page = own(*shlex.split(line)[3:]).ask("/")
    assert status == 200 and "<title>gptlab</title>" in page


def test_a_text_streams_as_the_engine_writes_it(folder: Path, server: Server) -> None:
    asked = {"prompt": PROMPT, "n": 2, "max_new_tokens": 12, "seed": 5, "sampling": {"top_p": 0.9}}
    events = server.write(**asked)
    samples = by_hand(model_of(folder))
    assert texts(events, 2) == [sample.text for sample in samples]
    assert [event["event"] for event in (events[0], events[-1])] == ["begin", "end"]
    told = [e["probability"] for e in events if e["event"] == "token" and e["sample"] == 1]
    assert told == pytest.approx([math.exp(x) for x in samples[1].logprobs], rel=1e-3)
    assert events[-1]["tokens"] == sum(len(sample.logprobs) for sample in samples)


def test_the_ten_that_a_token_beat_are_those_that_the_model_expected(
    folder: Path, server: Server
) -> None:
    model = model_of(folder)
    (sample,) = by_hand(model, n=1, max_new_tokens=10, seed=3)
    events = server.write(prompt=PROMPT, max_new_tokens=10, seed=3, sampling={"top_p": 0.9})
    tokens = [event for event in events if event["event"] == "token"]
    expected = expectations(model.net, sample.tokens, model.tokenizer.vocab_size)
    expected = expected[sample.prompt - 1 :]
    for token, found in zip(tokens, expected, strict=False):
        assert token["probability"] == pytest.approx(found.probability, rel=1e-2)
        mine = [p for _, p in token["likeliest"]]
        assert mine == pytest.approx([p for _, p in found.likeliest], rel=1e-2)
        assert len(mine) == 10
    assert len(expected) >= len(tokens) - 1 >= 0  # end-of-text is told, and is not in the sample


def test_telling_the_likeliest_changes_no_text(folder: Path) -> None:
    model = model_of(folder)
    plain, told = by_hand(model, scored=False), by_hand(model, likeliest=3)
    assert [s.tokens for s in plain] == [s.tokens for s in told]
    assert all(len(s.likeliest) == len(s.logprobs) for s in told)
    assert all(s.likeliest == [] and s.logprobs == [] for s in plain)


def test_a_search_with_beams_tells_its_tokens_too(folder: Path, server: Server) -> None:
    model = model_of(folder)
    sampling = SamplingConfig(beams=3)
    ids = prompt_ids(model.tokenizer, PROMPT, model.eot_first)
    best = beam_search(model.net, model.tokenizer, ids, sampling, 2, 8)
    events = server.write(prompt=PROMPT, n=2, max_new_tokens=8, sampling={"beams": 3})
    assert texts(events, 2) == [sample.text for sample in best]
    stop = best[0].text[3:5]
    events = server.write(prompt=PROMPT, max_new_tokens=8, stop=[stop], sampling={"beams": 3})
    assert stop not in texts(events)[0]


def test_a_stop_text_is_cut_off_and_the_servers_limit_holds(own: Any) -> None:
    server = own("max_new_tokens=7")
    events = server.write(prompt=PROMPT, max_new_tokens=500, seed=1)
    text = texts(events)[0]
    assert events[-1]["tokens"] <= 7
    stop = text[4:6]
    events = server.write(prompt=PROMPT, stop=[stop], seed=1)
    assert texts(events)[0] == text[: text.find(stop)]
    assert events[-1]["ended"] == ["stop"]


BAD = {
    "many samples": ({"n": 99}, "n: must be less than or equal to 8"),
    "cold": ({"sampling": {"temperature": -1}}, "sampling.temperature: must be greater"),
    "a misspelt field": ({"promt": "x"}, "promt: there is no such field"),
    "a number for a text": ({"prompt": 3}, "prompt: must be a valid string"),
    "half a character": (b'{"prompt": "\\ud800"}', "prompt"),
    "no number": (b'{"sampling": {"temperature": NaN}}', "finite number"),
    "no JSON": (b"{", "not JSON"),
    "no UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "a long prompt": ({"prompt": "x" * 100_001}, "at most 100000"),
    "a larger request": ({"prompt": "x" * 2**20}, "larger than 1,048,576 bytes"),
    "strange letters": ({"prompt": "Once ß"}, "vocabulary lacks: ' ß'"),
    "no such run": ({"run": "nope"}, "there is no such run"),
    "a path": ({"run": "../runs"}, "there is no such run"),
    "another path": ({"checkpoint": "../../secret"}, "there is no checkpoint"),
    "an input to no instruction": ({"prompt": "x", "input": "y"}, "input: belongs to"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_a_sentence(server: Server, name: str) -> None:
    content, words = BAD[name]
    status, told = server.ask("/api/write", content)
    assert 400 <= status < 500
    assert words in told["error"] and list(told) == ["error"]


def test_only_this_machine_and_this_page_may_ask(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    for headers, allowed in [
        ({"Host": "evil.example"}, False),
        ({"Host": f"127.0.0.1.evil.example:{server.port}"}, False),
        ({"Host": "192.168.0.7"}, False),
        ({"Host": f"localhost:{server.port}"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": own}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ]:
        status, told = server.ask("/api/runs", headers=headers)
        assert (status == 200) is allowed, (headers, told)
        assert allowed or (status == 403 and told["error"])


def test_on_another_address_names_are_checked_too() -> None:
    watch = guard.Guard(None, "0.0.0.0", 1, "a-long-secret-of-ours")
    for named in ("192.168.0.7:1", "[fe80::1]:1", "localhost"):  # cannot be pointed elsewhere
        watch.check_host(named)
    for named in ("evil.example", "", "192.168.0.7.evil.example", "a b", "[::1"):
        with pytest.raises(guard.Refused):
            watch.check_host(named)


def test_no_address_is_a_file(server: Server) -> None:
    names = ["../server.py", "%2e%2e/server.py", "page/index.html", "etc/passwd", "server.py"]
    for path in [*names, "index.html/", "docs/", "static/style.css"]:
        connection = socket.create_connection(("127.0.0.1", server.port))
        with connection:
            connection.sendall(
                f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda c=connection: c.recv(4096), b""))
        assert not answer.startswith(b"HTTP/1.1 200"), path
        assert b"fastapi" not in answer


def test_a_token_is_needed_where_there_is_one(own: Any) -> None:
    token = "a-long-secret-of-ours"
    server = own(f"token={token}")
    assert server.ask("/")[0] == 401
    assert server.ask("/api/runs")[0] == 401
    assert server.ask("/api/runs", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.ask("/?token=wrong")[0] == 401
    assert server.ask("/api/runs", headers={"Authorization": f"Bearer {token}"})[0] == 200
    cookie = f"gptlab_{server.port}={token}"
    assert server.ask("/api/runs", headers={"Cookie": cookie})[0] == 200
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET /?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = connection.recv(4096).decode().lower()
    assert answer.startswith("http/1.1 303") and "httponly; samesite=strict" in answer


def test_other_machines_only_with_a_token(command) -> None:
    result = command("gptlab.app.__main__", "host=0.0.0.0")
    assert result.code == 2 and "give it a token" in result.err and result.err.count("\n") == 1
    result = command("gptlab.app.__main__", "token=short")
    assert result.code == 2 and "16 to 200" in result.err


def test_a_port_in_use_and_a_missing_extra_are_one_line(command, server, folder, monkeypatch):
    named = ["open_browser=false", f"run_root={folder / 'runs'}", f"port={server.port}"]
    result = command("gptlab.app.__main__", *named)
    assert result.code == 2 and "in use" in result.err and result.err.count("\n") == 1
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "uvicorn" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    result = command("gptlab.app.__main__", *named)
    assert result.code == 2 and "pip install -e '.[app]'" in result.err


def test_who_leaves_stops_the_computing(own: Any) -> None:
    server = own("max_new_tokens=1000000", "waiting=0")
    with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
        answer.readline()
        status, told = server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})
        assert status == 429 and "try again" in told["error"]
    ends = time.monotonic() + 5
    while server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})[0] == 429:
        assert time.monotonic() < ends
    # A search with beams shows nothing before its end, and is stopped as well.
    asked = {"prompt": PROMPT, "max_new_tokens": 20_000, "sampling": {"beams": 16}}
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        content = json.dumps(asked)
        head = "POST /api/write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        connection.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
        time.sleep(1)
    ends = time.monotonic() + 5
    while server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})[0] == 429:
        assert time.monotonic() < ends


def test_those_who_wait_have_their_turn(own: Any) -> None:
    server = own("max_new_tokens=1000000", "waiting=1")
    with ThreadPoolExecutor(2) as pool:
        with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
            answer.readline()
            waits = pool.submit(server.write, prompt=PROMPT, max_new_tokens=2)
            time.sleep(0.5)
            assert not waits.done()
            assert server.ask("/api/write", {"prompt": PROMPT})[0] == 429
        assert waits.result(20)[-1]["event"] == "end"


def test_fifty_at_once_are_answered_and_memory_stays(server: Server) -> None:
    def ask(number: int) -> int:
        return server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 20, "seed": number})[0]

    held = []
    with ThreadPoolExecutor(50) as pool:
        for _ in range(4):
            found = list(pool.map(ask, range(50)))
            assert set(found) <= {200, 429} and found.count(200) >= 5
            held.append(server.resident())
    assert held[-1] - held[0] < 30e6
    assert server.write(prompt=PROMPT, max_new_tokens=1)


def test_a_checkpoint_that_is_removed_or_written_anew(own: Any, tmp_path: Path) -> None:
    server = own("max_new_tokens=1000000")
    place = run_of(tmp_path, "story") / "checkpoints"
    with server.streaming(prompt=PROMPT, checkpoint="step_2", **ENDLESS) as answer:
        assert json.loads(answer.readline())["step"] == 2
        (place / "step_2.ckpt").unlink()
        assert all(json.loads(answer.readline())["event"] == "token" for _ in range(20))
    status, told = server.ask("/api/write", {"prompt": PROMPT, "checkpoint": "step_2"})
    assert status == 404 and "there is no checkpoint step_2" in told["error"]
    shutil.copy(place / "step_4.ckpt", place / "step_2.ckpt")
    assert server.write(prompt=PROMPT, checkpoint="step_2", max_new_tokens=1)[0]["step"] == 4
    (place / "step_4.ckpt").write_bytes(b"damaged")
    status, told = server.ask("/api/write", {"prompt": PROMPT, "checkpoint": "step_4"})
    assert status == 400 and "not a checkpoint" in told["error"]
    shutil.rmtree(place.parent)
    assert server.ask("/api/write", {"prompt": PROMPT})[0] == 404
    assert {run["name"][18:] for run in server.ask("/api/runs")[1]} == {"told", "spam"}


def test_a_runs_history(own: Any, tmp_path: Path) -> None:
    server, run = own(), run_of(tmp_path, "story")
    with (run / "metrics.csv").open("a") as file:
        file.write("9999,12")  # a line that is being written
    status, told = server.ask(f"/api/run?name={run.name}")
    assert status == 200 and told["kind"] == "text" and not told["training"]
    steps = [(each["name"], each["step"]) for each in told["checkpoints"]]
    assert steps[0] == ("step_2", 2) and steps[-1] == ("step_6", 6) and len(steps) == 5
    assert 9999 not in [step for step, _ in told["curves"]["train"]]
    assert told["loss"] == min(loss for _, loss in told["curves"]["valid"])
    assert told["config"]["model"]["d_model"] == 16
    assert server.ask("/api/run?name=..")[0] == 404
    assert {each["kind"] for each in server.ask("/api/runs")[1]} == {
        "text", "classification", "instructions",
    }  # fmt: skip


def test_looks_inside_are_those_of_the_framework(folder: Path, server: Server) -> None:
    model, text = model_of(folder), "Once upon a time, there was a"
    ids = prompt_ids(model.tokenizer, text, model.eot_first)
    _, seen = server.ask("/api/attention", {"text": text, "layer": 1})
    assert len(seen["tokens"]) == len(ids) and seen["layers"] == 2
    for table, weights_TxT in zip(seen["heads"], attention(model.net, ids)[1], strict=True):
        assert table == pytest.approx((1000 * weights_TxT).flatten().tolist(), abs=0.51)
    _, lens = server.ask("/api/lens", {"text": text})
    nats = [layer["nats"] for layer in lens["layers"]]
    assert nats == pytest.approx(logit_lens(model.net, ids, model.tokenizer.vocab_size).nats, 1e-3)
    _, told = server.ask("/api/surprise", {"text": text})
    found = expectations(model.net, ids, model.tokenizer.vocab_size)
    assert [token["rank"] for token in told["tokens"]] == [each.rank for each in found]
    assert server.ask("/api/attention", {"text": text, "layer": 9})[0] == 400


def test_a_classifier_tells_classes_and_refuses_to_write(folder: Path, server: Server) -> None:
    run, text = run_of(folder, "spam").name, "You won a prize"
    model = model_of(folder, "spam")
    status, told = server.ask("/api/classify", {"run": run, "text": text, "unknown": "skip"})
    model.tokenizer.unknown = "skip"
    found = probabilities(model.net, model.tokenizer, text, model.eot_first)
    assert status == 200
    assert [each["probability"] for each in told["classes"]] == pytest.approx(
        sorted(found, reverse=True), abs=1e-5
    )
    for path, asked in [("/api/write", {"prompt": text}), ("/api/lens", {"text": text})]:
        status, told = server.ask(path, asked | {"run": run})
        assert status == 400 and "cannot write" in told["error"]
    status, told = server.ask("/api/classify", {"text": text})
    assert status == 400 and "no classes" in told["error"]


def test_an_instruction_stands_in_its_template(folder: Path, server: Server) -> None:
    model, run = model_of(folder, "told"), run_of(folder, "told").name
    asked = {"prompt": "Swap the two words.", "input": "cat and king"}
    events = server.write(run=run, max_new_tokens=1, unknown="skip", **asked)
    model.tokenizer.unknown = "skip"
    read = framed(GenerateConfig(input=asked["input"]), model, asked["prompt"])
    assert events[0]["prompt_tokens"] == len(model.tokenizer.encode(read)) + model.eot_first


def test_ctrl_c_ends_it_in_the_middle_of_a_text(own: Any) -> None:
    server = own("max_new_tokens=1000000")
    with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
        answer.readline()
        began = time.monotonic()
        assert server.end() == 0
    assert time.monotonic() - began < 5
    assert server.said[-1] == "stopped\n" and "Traceback" not in "".join(server.said)


def test_a_client_that_reads_nothing_gives_its_turn_away(monkeypatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE", 0.1)

    async def silent() -> dict[str, Any]:
        return await asyncio.Event().wait()

    async def full(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def scene() -> list[int]:
        queue, counted = Queue(0), []

        def work(stop: threading.Event) -> Iterator[int]:
            for number in itertools.count():
                counted.append(number)
                yield number

        await asyncio.wait_for(Streamed(queue, work)({}, silent, full), 5)
        assert queue.inside == 0
        return [x async for batch in queue.run(lambda stop: iter_of(3)) for x in batch]

    assert asyncio.run(scene()) == [0, 1, 2]


def iter_of(count: int) -> Iterator[int]:
    yield from range(count)


def test_a_request_that_never_arrives_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    sent: list[dict[str, Any]] = []

    async def stalled() -> dict[str, Any]:
        return await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/api/write", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard.Guard(None, "127.0.0.1", 1, None)(scope, stalled, send))
    assert sent[0]["status"] == 408 and b"in time" in sent[1]["body"]


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_openais_client_completes(folder: Path, client: openai.OpenAI) -> None:
    settings = {"model": "gptlab", "prompt": PROMPT, "max_tokens": 12, "seed": 5, "top_p": 0.9}
    samples = by_hand(model_of(folder))
    whole = client.completions.create(**settings, n=2, logprobs=3)
    assert [choice.text for choice in whole.choices] == [sample.text for sample in samples]
    told = whole.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(samples[0].logprobs)
    assert all(len(each) == 3 for each in told.top_logprobs)
    assert whole.usage.completion_tokens == sum(len(sample.logprobs) for sample in samples)
    ways = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(**settings, n=2, **ways))
    for i, sample in enumerate(samples):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert "".join(part.text for part in parts) == sample.text
        assert [part.finish_reason for part in parts][-1] in ("stop", "length")
    assert chunks[-1].usage == whole.usage


def test_openais_client_has_its_other_fields(folder: Path, client: openai.OpenAI) -> None:
    run = run_of(folder, "story").name
    assert run in [model.id for model in client.models.list().data]
    settings = {"model": f"{run}:step_4", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(**settings, prompt=PROMPT).choices[0].text
    echoed = client.completions.create(**settings, prompt=PROMPT, echo=True).choices[0].text
    assert echoed == PROMPT + text
    stop = text[3:5]
    cut = client.completions.create(**settings, prompt=PROMPT, stop=stop).choices[0]
    assert cut.text == text[: text.find(stop)] and cut.finish_reason == "stop"
    tokens = model_of(folder).tokenizer.encode(PROMPT)
    both = client.completions.create(**settings, prompt=[PROMPT, "One day"])
    assert both.choices[0].text == text and both.choices[1].index == 1
    if not model_of(folder).eot_first:
        assert client.completions.create(**settings, prompt=tokens).choices[0].text == text
    settings = {"model": run, "prompt": PROMPT, "max_tokens": 8, "seed": 2, "logprobs": 0}
    best = client.completions.create(**settings, best_of=4, top_p=0.9).choices
    samples = by_hand(model_of(folder), n=4, seed=2, max_new_tokens=8)
    assert [choice.text for choice in best] == [max(samples, key=lambda s: s.likelihood).text]


def test_openais_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no such run"):
        client.completions.create(model="nope", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="vocabulary lacks"):
        client.completions.create(model="gptlab", prompt="ß", stream=True)
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        client.completions.create(model="gptlab", prompt=PROMPT, presence_penalty=1.0)


def test_the_page_needs_no_other_address(server: Server) -> None:
    for path in PAGE.iterdir():
        content = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in content and "https://" not in content, path.name
    status, described = server.ask("/openapi.json")
    assert status == 200
    wanted = {"/api/write", "/api/runs", "/api/attention", "/api/classify", "/v1/completions"}
    assert wanted <= set(described["paths"])
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = connection.recv(4096).decode()
    assert "default-src 'none'; script-src 'self'" in head
