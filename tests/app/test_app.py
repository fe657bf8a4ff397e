"""The page's server: what it answers."""

import fcntl
import io
import json
import math
import os
import shlex
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gptlab.app import run_history
from gptlab.app.model_registry import ModelRegistry
from gptlab.app.routes import PAGE
from gptlab.config.schema import GenerateConfig, SamplingConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation.classification import class_probabilities
from gptlab.evaluation.interpretability import (
    attention_maps,
    logit_lens,
    nearest_tokens,
    token_expectations,
)
from gptlab.generation.engine import apply_template, encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.utils import run_dir
from tests.app.serving import PROMPT, Server, by_hand, model_of, run_of, texts
from tests.test_readme_commands import COMMANDS

pytest_plugins = ["tests.app.serving"]


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
    (sample,) = by_hand(model, num_samples=1, max_new_tokens=10, seed=3)
    events = server.write(prompt=PROMPT, max_new_tokens=10, seed=3, sampling={"top_p": 0.9})
    tokens = [event for event in events if event["event"] == "token"]
    expected = token_expectations(model.net, sample.tokens, model.tokenizer.vocab_size)
    expected = expected[sample.prompt_length - 1 :]
    for token, found in zip(tokens, expected, strict=False):
        assert token["probability"] == pytest.approx(found.probability, rel=1e-2)
        mine = [p for _, p in token["likeliest"]]
        assert mine == pytest.approx([p for _, p in found.likeliest], rel=1e-2)
        assert len(mine) == 10
    assert len(expected) >= len(tokens) - 1 >= 3  # end-of-text is told, and is not in the sample


def test_telling_the_likeliest_changes_no_text(folder: Path) -> None:
    model = model_of(folder)
    plain, told = by_hand(model, logprobs=False), by_hand(model, top_logprobs=3)
    assert [s.tokens for s in plain] == [s.tokens for s in told]
    assert all(len(s.top_logprobs) == len(s.logprobs) for s in told)
    assert all(s.top_logprobs == [] and s.logprobs == [] for s in plain)


def test_a_search_with_beams_tells_its_tokens_too(folder: Path, server: Server) -> None:
    model = model_of(folder)
    sampling = SamplingConfig(beams=3)
    ids = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    request = GenerationRequest(model.net, model.tokenizer, ids, sampling, 2, 8)
    best = generate_samples(request)
    events = server.write(prompt=PROMPT, n=2, max_new_tokens=8, sampling={"beams": 3})
    assert texts(events, 2) == [sample.text for sample in best]
    searched = [event["tokens"] for event in events if event["event"] == "searched"]
    assert searched == list(range(1, len(searched) + 1)) and 1 <= len(searched) <= 8
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
    "hardly any": ({"sampling": {"top_p": 1e-300}}, "sampling.top_p: must be greater"),
    "no JSON": (b"{", "not JSON"),
    "no UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "a long prompt": ({"prompt": "x" * 100_001}, "at most 100000"),
    "a larger request": ({"prompt": "x" * 2**20}, "larger than 1,048,576 bytes"),
    "strange letters": ({"prompt": "Once ß"}, "vocabulary lacks: ' ß'"),
    "no such run": ({"run": "nope"}, "there is no such run"),
    "a path": ({"run": "../runs"}, "there is no such run"),
    "another path": ({"checkpoint": "../../secret"}, "there is no checkpoint"),
    "an input to no instruction": ({"prompt": "x", "input": "y"}, "input needs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_a_sentence(server: Server, name: str) -> None:
    content, words = BAD[name]
    status, told = server.ask("/api/write", content)
    assert 400 <= status < 500
    assert words in told["error"] and list(told) == ["error"]


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
    ids = encode_prompt(model.tokenizer, text, model.eot_first)
    _, seen = server.ask("/api/attention", {"text": text, "layer": 1})
    assert len(seen["tokens"]) == len(ids) and seen["layers"] == 2
    for table, weights_TxT in zip(seen["heads"], attention_maps(model.net, ids)[1], strict=True):
        assert table == pytest.approx((1000 * weights_TxT).flatten().tolist(), abs=0.51)
    _, lens = server.ask("/api/lens", {"text": text})
    nats = [layer["nats"] for layer in lens["layers"]]
    assert nats == pytest.approx(logit_lens(model.net, ids, model.tokenizer.vocab_size).nats, 1e-3)
    _, told = server.ask("/api/surprise", {"text": text})
    found = token_expectations(model.net, ids, model.tokenizer.vocab_size)
    assert [token["rank"] for token in told["tokens"]] == [each.rank for each in found]
    assert server.ask("/api/attention", {"text": text, "layer": 9})[0] == 400
    _, alike = server.ask("/api/neighbours", {"text": text})
    by_word = {decode(model.tokenizer, [id]): id for id in ids}
    for each in alike["tokens"]:
        near = nearest_tokens(model.net, by_word[each["token"]], model.tokenizer.vocab_size, most=8)
        assert [word for word, _ in each["neighbours"]] == [
            decode(model.tokenizer, [id]) or "<|endoftext|>" for id, _ in near
        ]
    lengths = [len(each["token"]) for each in alike["tokens"]]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) >= 3


def test_a_classifier_tells_classes_and_refuses_to_write(folder: Path, server: Server) -> None:
    run, text = run_of(folder, "spam").name, "You won a prize"
    model = model_of(folder, "spam")
    status, told = server.ask("/api/classify", {"run": run, "text": text, "unknown": "skip"})
    model.tokenizer.unknown = "skip"
    found = class_probabilities(model.net, model.tokenizer, text, model.eot_first)
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
    read = apply_template(GenerateConfig(input=asked["input"]), model, asked["prompt"])
    assert events[0]["prompt_tokens"] == len(model.tokenizer.encode(read)) + model.eot_first


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


ODD = {
    "config.yaml": b"model: gpt2\ndata: [1]\n",
    "config.yaml ": b"model:\n  n_layer: !!binary /9j/\n  d_model: .nan\n",
    "metrics.csv": b"step,valid/loss\n1,2.5\n2,\xff\n3,1.5\n4",
    "summary.json": b'{"steps": "\\ud800", "parameters": NaN}',
}


def odd_run(root: Path, name: bytes, file: str, content: bytes) -> None:
    folder = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    (folder / file.strip()).write_bytes(content)


def test_one_odd_folder_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    for name, content in ODD.items():
        odd_run(tmp_path, name.replace(" ", "2").encode(), name, content)
    odd_run(tmp_path, b"caf\xe9", "summary.json", b"{}")
    shelf = ModelRegistry(
        tmp_path, run_of(folder, "story") / "checkpoints" / "best.ckpt", 1, "cpu", "float32"
    )
    found = {each["name"]: each for each in run_history.overview(shelf)}
    json.dumps([found, *(run_history.details(shelf, n) for n in found)], allow_nan=False).encode()
    assert len(found) == len(ODD) + 1
    assert found["metrics.csv"]["loss"] == 1.5
    assert found["config.yaml"]["kind"] == "text"


def test_a_run_elsewhere_keeps_a_name_of_its_own(folder: Path, tmp_path: Path) -> None:
    story = run_of(folder, "story")
    odd_run(tmp_path, story.name.encode(), "summary.json", b"{}")
    shelf = ModelRegistry(tmp_path, story / "checkpoints" / "last.ckpt", 1, "cpu", "float32")
    run, checkpoint = shelf.find(None, None)
    assert shelf.checkpoints(run)[checkpoint] == story / "checkpoints" / "last.ckpt"
    assert shelf.runs()[story.name] == tmp_path / story.name
    odd_run(tmp_path / "later", run.encode(), "summary.json", b"{}")
    shelf.root = tmp_path / "later"
    assert shelf.folder(run) == story


def test_samples_are_the_latest_by_their_number(tmp_path: Path) -> None:
    for number in (900, 1000, 20):
        (tmp_path / "samples").mkdir(exist_ok=True)
        (tmp_path / "samples" / f"step_{number}.txt").write_text("x" * 20_000)
    os.mkfifo(tmp_path / "samples" / "step_1001.txt")  # nothing ever comes of it
    (tmp_path / "samples" / "step_1002.txt").symlink_to("step_20.txt")
    found = run_history.samples(tmp_path)
    assert [each["name"] for each in found] == ["step 1000", "step 900", "step 20"]
    assert {len(each["text"]) for each in found} == {run_history.LARGEST}


def test_metrics_are_read_again_only_when_they_grew(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,valid/loss\n1,2.5\n")
    assert run_history.summary("run", tmp_path)["loss"] == 2.5
    with monkeypatch.context() as patched:
        patched.setattr(
            run_history, "opened", lambda path: 1 / 0 if path.suffix == ".csv" else io.StringIO()
        )
        assert run_history.summary("run", tmp_path)["loss"] == 2.5
    path.write_text("step,valid/loss\n1,2.5\n2,0.5\n")
    assert run_history.summary("run", tmp_path)["loss"] == 0.5


def test_who_asks_whether_a_run_is_in_use_keeps_nobody_out(tmp_path: Path) -> None:
    with run_dir.lock_run_dir(tmp_path):
        assert run_dir.is_locked(tmp_path)
    with (tmp_path / run_dir.LOCK_FILE).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as one who asks at the same time
        assert not run_dir.is_locked(tmp_path)
        threading.Timer(0.05, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        with run_dir.lock_run_dir(tmp_path):
            assert run_dir.is_locked(tmp_path)
