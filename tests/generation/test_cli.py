"""generate.py as a person uses it: on a terminal, into a pipe, interrupted."""

import builtins
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptlab.config.schema import GenerateConfig
from gptlab.generation import cli
from gptlab.generation.cli import read_prompt
from gptlab.generation.sample import GenerationRequest, Sample
from tests.conftest import ROOT, posix_only

GUIDE = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")


def after_step(
    monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object], turn: int = 0
) -> None:
    """Call `act` after that step of the turn-th text that the command generates."""
    generate_steps, turns = cli.generate_steps, iter(range(sys.maxsize))

    def steps(request: GenerationRequest) -> Iterator[list[Sample]]:
        is_turn = next(turns) == turn
        for step, samples in enumerate(generate_steps(request)):
            yield samples
            if is_turn and step == number:
                act()

    monkeypatch.setattr(cli, "generate_steps", steps)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class Terminal:
    """generate.py as a process on a pseudo-terminal."""

    def __init__(self, folder: Path, *arguments: str):
        import pty

        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "generate.py"), *arguments],
            **{"cwd": folder, "stdin": slave, "stdout": slave, "stderr": slave},
            start_new_session=True,
        )
        os.close(slave)
        self.unread = ""

    def read_until(self, words: str, seconds: float = 120) -> str:
        """Return the output up to these words, since the last call."""
        deadline = time.monotonic() + seconds
        while words not in self.unread:
            assert time.monotonic() < deadline, self.unread
            try:
                self.unread += os.read(self.master, 4096).decode().replace("\r", "")
            except OSError:
                break
        before, match, self.unread = self.unread.partition(words)
        assert match, before
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@posix_only
def test_on_a_terminal_ctrl_c_stops_the_text_and_ctrl_d_quits(trained: Path, tmp_path) -> None:
    terminal = Terminal(tmp_path, "max_new_tokens=1000000", "sampling=greedy")  # never finishes
    terminal.read_until("> ")
    terminal.type("Once upon\n")
    assert "Once upon" in terminal.read_until("forgets the older half")
    terminal.read_until("Once upon")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.read_until("\nstopped\n")
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    os.close(terminal.master)


def test_a_conversation_survives_errors_and_ctrl_c_and_saves_each_text(
    command, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    prompts = iter(["Once upon", "Once xyzzy", "", "Once"])  # the second is refused

    def type_prompt(_: str) -> str:
        if (prompt := next(prompts, None)) is None:
            raise EOFError
        return prompt

    monkeypatch.setattr(builtins, "input", type_prompt)
    monkeypatch.setattr(cli, "is_terminal", lambda stream: True)
    after_step(monkeypatch, 2, ctrl_c, turn=1)
    arguments = ["max_new_tokens=5", "save_as=talk.txt", "sampling=plain", "unknown=error"]
    result = command("generate", *arguments)
    assert result.code == 0 and "lacks: ' xyzzy'" in result.err and "\nstopped\n" in result.err
    texts = {number: tmp_path / f"talk_{number}.txt" for number in (1, 2, 3, 4)}
    assert [number for number, path in texts.items() if path.exists()] == [1, 3, 4]
    assert texts[1].read_text(encoding="utf-8").startswith("Once upon ")
    records = [
        json.loads(texts[n].with_suffix(".json").read_text(encoding="utf-8")) for n in (1, 3, 4)
    ]
    assert [record["settings"]["seed"] for record in records] == [1337, 1339, 1340]
    reasons = [record["samples"][0]["finish_reason"] for record in records]
    assert reasons == ["length", "interrupted", "length"]


def test_samples_appear_side_by_side_on_a_wide_terminal(command, trained, monkeypatch) -> None:
    arguments = ["prompt=Once upon a time", "num_samples=4", "max_new_tokens=40"]
    stream = command("generate", *arguments).out
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = command("generate", *arguments)
    titles = [line for line in result.err.splitlines() if "—" in line]
    assert [title.count("sample") for title in titles] == [3, 1]
    lines = result.out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    rows = [[*line.split(" │ "), "", ""][:3] for line in lines if " │ " in line]
    assert len(rows) > 3
    for column in range(3):
        text = " ".join(" ".join(row[column].strip() for row in rows).split())
        assert text.startswith("Once upon a time") and text in " ".join(stream.split())


def test_an_interrupted_text_is_shown_and_saved(command, trained, tmp_path, monkeypatch) -> None:
    after_step(monkeypatch, 6, ctrl_c)
    result = command(
        *("generate", "prompt=Once", "max_new_tokens=1000000", "sampling=greedy"),
        "save_as=kept/half",
    )
    assert result.code == 130 and "Traceback" not in result.err
    (sample,) = json.loads((tmp_path / "kept" / "half.json").read_text(encoding="utf-8"))["samples"]
    assert sample["text"] and result.out == f"Once{sample['text']}\n"


def test_samples_are_saved_even_if_the_reader_of_a_pipe_leaves(
    command, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    reader, writer = os.pipe()
    after_step(monkeypatch, 3, lambda: os.close(reader))
    with open(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        result = command("generate", "prompt=Once", "num_samples=2", "save_as=kept")
        monkeypatch.undo()
    assert result.code == 1 and "Traceback" not in result.err
    assert len(json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["samples"]) == 2


def test_a_prompt_can_come_from_standard_input(command, trained: Path, monkeypatch) -> None:
    def piped(content: bytes):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
        return command("generate", "prompt=-", "max_new_tokens=3")

    result = piped(b"Once upon a time\n")
    assert result.code == 0 and result.out.startswith("Once upon a time")
    assert not result.out.startswith("Once upon a time\n")
    for content, words in ((b"", "is empty"), (b"\xff\xfe\xff", "not UTF-16 text")):
        result = piped(content)
        assert result.code == 2 and words in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_prompt_is_the_same_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch, encoding: str
) -> None:
    """Line ends and encodings of Windows, as a text to train on may have them."""
    content = "“Ah”, said the fox.\r\nIt rained: café.\r\n"
    path = tmp_path / "prompt.txt"
    path.write_bytes(content.encode(encoding))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(path.open("rb"), "utf-8"))
    from_file = read_prompt(GenerateConfig(prompt_file=str(path)))
    assert from_file == read_prompt(GenerateConfig(prompt="-"))
    assert from_file == content.replace("\r\n", "\n").removesuffix("\n")


def test_saved_json_has_settings_checkpoint_and_token_probabilities(
    command, trained: Path, tmp_path: Path
) -> None:
    settings = [
        *("prompt=Once upon", "num_samples=2", "max_new_tokens=4", "sampling.top_k=3", "seed=5")
    ]
    result = command("generate", *settings, "save_as=out.txt")
    assert result.code == 0
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").startswith("Once upon")
    assert content["settings"]["seed"] == 5 and content["settings"]["sampling"]["top_k"] == 3
    assert content["checkpoint"].endswith("best.ckpt") and content["prompt"] == "Once upon"
    for sample in content["samples"]:
        assert "Once upon" + sample["text"] in result.out
        assert "".join(token["text"] for token in sample["tokens"]).startswith(sample["text"])
        nats = [-math.log(token["probability"]) for token in sample["tokens"]]
        assert sample["nats_per_token"] == pytest.approx(sum(nats) / len(nats))
    before = (tmp_path / "out.json").read_bytes()
    assert command("generate", *settings, "save_as=out.json").code == 0
    assert (tmp_path / "out.json").read_bytes() == before.replace(b'"out.txt"', b'"out.json"')
    assert not list(tmp_path.glob(".*"))


def test_best_of_shows_the_most_likely_samples(command, trained: Path) -> None:
    arguments = ["generate", "prompt=Once", "max_new_tokens=5"]
    result = command(*arguments, "num_samples=2", "best_of=6", "save_as=best")
    lines = result.err.splitlines()  # its figures come after the texts
    assert result.code == 0 and "most likely of 6" in lines[-2], result.err
    assert "— sample 2 —" in lines[:-2] and lines[-1].startswith("30 tokens, ")
    result = command("generate", "prompt=Once", "max_new_tokens=1")
    assert result.err.splitlines()[-1].startswith("1 token, ")
    assert command(*arguments, "num_samples=6", "save_as=all").code == 0
    best, every = (
        [
            sample["nats_per_token"]
            for sample in json.loads(Path(file).read_text(encoding="utf-8"))["samples"]
        ]
        for file in ("best.json", "all.json")
    )
    assert best == pytest.approx(sorted(every)[:2], abs=1e-6)


def test_a_text_ends_before_the_first_stop_string(command, trained: Path) -> None:
    arguments = ["prompt=Once upon a time", "max_new_tokens=60"]
    whole = command("generate", *arguments).out.rstrip("\n")
    word = whole.removeprefix("Once upon a time").split()[5]
    for stop in (f"stop={word}", f"stop=[{word},xyzzy]"):
        text = command("generate", *arguments, stop).out.rstrip("\n")
        assert whole.startswith(text) and word not in text.removeprefix("Once upon a time")


def test_beam_search_ignores_the_seed(command, trained: Path) -> None:
    beam = ["prompt=Once", "sampling=beam", "num_samples=2", "max_new_tokens=6"]
    results = [command("generate", *beam, f"seed={seed}") for seed in (1, 2)]
    assert results[0].code == 0 and results[0].out == results[1].out


def test_the_cache_does_not_change_the_text(command, trained: Path) -> None:
    arguments = ["prompt=Once", "max_new_tokens=200", "sampling.top_k=null"]
    texts = [
        command("generate", *arguments, f"kv_cache={cache}").out for cache in ("true", "false")
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 200


def test_long_prompts_and_large_numbers_are_accepted(command, trained: Path) -> None:
    result = command("generate", "prompt=Once" + " upon a time" * 8500, "max_new_tokens=2")
    assert result.code == 0 and "the model sees the last" in result.err
    large = ["sampling.top_k=1000000", "num_samples=40", "max_new_tokens=20"]
    assert command("generate", "prompt=Once", *large).code == 0


@pytest.mark.parametrize("line", re.findall(r"^python generate.py (.*)$", GUIDE, re.MULTILINE))
def test_commands_of_the_guide_work(command, trained: Path, line: str) -> None:
    result = command("generate", *shlex.split(line), "max_new_tokens=5")
    assert result.code == 0, result.err
    assert result.out.startswith("Once upon a time")


def test_the_guide_lists_every_sampling_choice_and_the_default(command, trained: Path) -> None:
    for file in (ROOT / "conf" / "sampling").glob("*.yaml"):
        assert f"| `{file.stem}`" in GUIDE
    texts = [
        command("generate", "prompt=Once", "max_new_tokens=30", *choice).out
        for choice in ([], ["sampling=top_p"])
    ]
    assert texts[0] == texts[1] and "`top_p` (the default)" in GUIDE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop="], "stop is empty"),
        (["stop=[[a]]"], "must be a text or a list of texts"),
        (["num_samples=3", "best_of=2"], "best_of=2 must be at least num_samples=3"),
        (["best_of=2", "sampling=beam"], "give one of them"),
        (["sampling.min_p=2"], "sampling.min_p=2.0 must be from 0 to 1"),
        (["sampling.repetition_penalty=0"], "must be at least 0.001"),
        (["sampling.no_repeat_ngram=0"], "must be at least 1"),
        (["sampling.beams=0"], "sampling.beams=0 must be at least 1"),
        (["save_as=runs"], "save_as=runs: runs.txt is a folder"),
        pytest.param(["save_as=/dev/null/x"], "no access to /dev/null", marks=posix_only),
        (["save_as=.."], "is not a file name"),
        (["save_as=out/"], "is not a file name"),
        (["save_as=~nobody_here/x"], "save_as=~nobody_here/x: "),
        (["save_as=" + "x" * 300], "File name too long"),
        (["sampling=beam", "sampling.length_penalty=1000"], "must be from -10 to 10"),
        (["sampling.temperature=1e39"], "must be from 0 to 10000"),
    ],
)
def test_invalid_settings_give_a_one_line_error(
    command, trained: Path, tmp_path: Path, arguments, words: str
) -> None:
    (tmp_path / "runs.txt").mkdir()
    (tmp_path / "unread.ckpt").touch()
    result = command("generate", "run=unread.ckpt", "prompt=Once", *arguments)
    assert result.code == 2, result.out
    assert words in result.err and result.err.count("\n") == 1 and result.out == ""
