"""generate.py as a person uses it: at a terminal, into a pipe, stopped in the middle."""

import fcntl
import io
import json
import math
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from gptlab.generation.terminal import LineWrapper, cell_width, pad
from tests.conftest import ROOT

GENERATE = [sys.executable, str(ROOT / "generate.py")]


class Terminal:
    """generate.py at a terminal of 100 columns."""

    def __init__(self, folder: Path, *arguments: str):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [*GENERATE, *arguments], cwd=folder, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env={k: v for k, v in os.environ.items() if k != "COLUMNS"},
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, words: str, seconds: float = 60) -> str:
        """What was shown up to these words, since the last call."""
        ends = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < ends, self.seen
            try:
                self.seen += os.read(self.master, 4096).decode().replace("\r", "")
            except OSError:
                break
        before, found, self.seen = self.seen.partition(words)
        assert found, before
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        code = self.process.wait(30)
        os.close(self.master)
        return code


def test_at_a_terminal_it_asks_for_one_prompt_after_another(trained: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "max_new_tokens=5")
    terminal.until("> ")
    terminal.type("Once upon a time\n")
    first = terminal.until("5 tokens,")
    assert "Once upon a time" in first.replace("Once upon a time\n", "", 1)
    terminal.until("> ")
    terminal.type("Once xyzzy\n")
    assert "lacks: ' xyzzy'" in terminal.until("> ")  # and it goes on asking
    terminal.type("\n")
    terminal.until(" tokens/s")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_the_text_and_not_the_conversation(trained: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "max_new_tokens=1000000", "sampling=greedy")  # without an end
    terminal.until("> ")
    terminal.type("Once upon\n")
    terminal.until("forgets the older half")
    time.sleep(0.5)
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("\nstopped\n")
    rest = terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0, rest


def test_samples_stand_side_by_side(command, trained: Path, tmp_path: Path) -> None:
    texts = ["prompt=Once upon a time", "num_samples=4", "max_new_tokens=40"]
    terminal = Terminal(tmp_path, *texts)
    shown = terminal.until(" tokens/s")
    assert terminal.end() == 0
    lines = shown.splitlines()
    assert "— sample 1 —" in shown and "— sample 4 —" in shown
    assert all(len(line) <= 100 for line in lines)
    rows = [line.split(" │ ") for line in lines if " │ " in line]
    rows = [[*row, "", ""][:3] for row in rows]  # the first three; the fourth follows
    assert len(rows) > 3
    plain = command("generate", *texts).out
    for column in range(3):
        text = " ".join(" ".join(row[column].strip() for row in rows).split())
        assert text.startswith("Once upon a time") and text in " ".join(plain.split())


def grown(text: str, width: int) -> LineWrapper:
    """The lines of a text that came letter by letter, none of which has changed on the way."""
    column, before = LineWrapper(width), []
    for length in range(len(text) + 1):
        column.update(text[:length], length == len(text))
        assert column.lines[: len(before)] == before
        before = list(column.lines)
    return column


def test_lines_hold_the_whole_text_and_never_change() -> None:
    text = "a word\nhello- - " + "x" * 95 + "  LONG" * 9 + "\n\nhttps://a.b/" + "c" * 40 + " end"
    for width in (1, 7, 30):
        column = grown(text, width)
        assert all(len(line) <= width for line in column.lines)
        assert "".join("".join(column.lines).split()) == "".join(text.split())


def test_wide_letters_take_two_cells_and_marks_none() -> None:
    text = "狐は森に住んでいました 🦊🦊🦊 e\u0301e\u0301e\u0301 plain words " * 4
    for width in (7, 12, 30):
        column = grown(text, width)
        sizes = [sum(map(cell_width, line)) for line in column.lines]
        assert max(sizes) <= width and max(map(len, column.lines)) <= 2 * width
        assert "".join("".join(column.lines).split()) == "".join(text.split())
        assert {sum(map(cell_width, pad(line, width))) for line in column.lines} == {width}


def test_each_text_of_a_conversation_is_saved(trained: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "max_new_tokens=3", "save_as=talk.txt")
    for prompt in ("Once upon", "Once"):
        terminal.until("> ")
        terminal.type(f"{prompt}\n")
        terminal.until("tokens/s")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert (tmp_path / "talk_1.txt").read_text().startswith("Once upon")
    assert json.loads((tmp_path / "talk_2.json").read_text())["prompt"] == "Once"


def test_what_a_reader_left_is_saved_all_the_same(trained: Path, tmp_path: Path) -> None:
    typed = "generate.py prompt=Once num_samples=2 max_new_tokens=300 sampling=plain save_as=kept"
    shell = f"{sys.executable} {ROOT}/{typed} | head -c 20"
    subprocess.run(shell, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert len(json.loads((tmp_path / "kept.json").read_text())["samples"]) == 2


def test_a_prompt_from_standard_input(command, trained: Path, monkeypatch) -> None:
    def piped(content: bytes):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return command("generate", "prompt=-", "max_new_tokens=3")

    result = piped(b"Once upon a time\n")
    assert result.code == 0 and result.out.startswith("Once upon a time")
    assert not result.out.startswith("Once upon a time\n")
    for content, words in ((b"", "is empty"), (b"\xff\xfe\xff", "is not UTF-8 text")):
        result = piped(content)
        assert result.code == 2 and words in result.err and result.err.count("\n") == 1


def test_a_stopped_text_is_shown_and_saved(trained: Path, tmp_path: Path) -> None:
    arguments = ["prompt=Once", "max_new_tokens=1000000", "sampling=greedy", "save_as=kept/half"]
    process = subprocess.Popen(
        [*GENERATE, *arguments], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    began = b""
    while len(began) < 20:  # the prompt, and the first words
        began += os.read(process.stdout.fileno(), 30)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    out = (began + rest).decode()
    assert process.returncode == 130 and b"Traceback" not in err
    assert out.startswith("Once") and out.endswith("\n")
    (sample,) = json.loads((tmp_path / "kept" / "half.json").read_text())["samples"]
    assert out.rstrip("\n").endswith(sample["text"][-20:].rstrip("\n")) and sample["text"]


def test_what_is_saved_tells_how_it_came_about(command, trained: Path, tmp_path: Path) -> None:
    settings = [
        "prompt=Once upon",
        "num_samples=2",
        "max_new_tokens=4",
        "sampling.top_k=3",
        "seed=5",
    ]
    result = command("generate", *settings, "save_as=out.txt")
    assert result.code == 0
    table = json.loads((tmp_path / "out.json").read_text())
    assert (tmp_path / "out.txt").read_text().startswith("Once upon")
    assert table["settings"]["seed"] == 5 and table["settings"]["sampling"]["top_k"] == 3
    assert table["checkpoint"].endswith("best.ckpt") and table["prompt"] == "Once upon"
    for sample in table["samples"]:
        assert "Once upon" + sample["text"] in result.out
        assert "".join(token["text"] for token in sample["tokens"]).startswith(sample["text"])
        mean = -sum(math.log(t["probability"]) for t in sample["tokens"]) / len(sample["tokens"])
        assert sample["nats_per_token"] == pytest.approx(mean)
    before = (tmp_path / "out.json").read_bytes()
    assert command("generate", *settings, "save_as=out.json").code == 0
    assert (tmp_path / "out.json").read_bytes() == before.replace(b'"out.txt"', b'"out.json"')
    assert not list(tmp_path.glob(".out*"))


def test_the_likeliest_of_several(command, trained: Path) -> None:
    few = ["prompt=Once", "num_samples=2", "max_new_tokens=5", "best_of=6", "save_as=best"]
    result = command("generate", *few)
    assert result.code == 0 and "most likely of 6" in result.err
    best = [s["nats_per_token"] for s in json.loads(Path("best.json").read_text())["samples"]]
    assert (
        command("generate", "prompt=Once", "num_samples=6", "max_new_tokens=5", "save_as=all").code
        == 0
    )
    every = [s["nats_per_token"] for s in json.loads(Path("all.json").read_text())["samples"]]
    assert best == pytest.approx(sorted(every)[:2], abs=1e-6)


def test_it_stops_at_a_text_or_at_one_of_several(command, trained: Path) -> None:
    once = ["prompt=Once upon a time", "max_new_tokens=60"]
    whole = command("generate", *once).out.rstrip("\n")
    word = whole.removeprefix("Once upon a time").split()[5]
    for stop in (f"stop={word}", f"stop=[{word},xyzzy]"):
        text = command("generate", *once, stop).out.rstrip("\n")
        assert whole.startswith(text) and word not in text.removeprefix("Once upon a time")


def test_beams_write_the_same_each_time(command, trained: Path) -> None:
    beam = ["prompt=Once", "sampling=beam", "num_samples=2", "max_new_tokens=6"]
    results = [command("generate", *beam, f"seed={seed}") for seed in (1, 2)]
    assert results[0].code == 0 and results[0].out == results[1].out


def test_without_the_cache_the_text_is_the_same(command, trained: Path) -> None:
    long = ["prompt=Once", "max_new_tokens=200", "sampling.top_k=null"]
    texts = [command("generate", *long, f"kv_cache={cached}").out for cached in ("true", "false")]
    assert texts[0] == texts[1] and len(texts[0]) > 200


def test_large_wishes_are_no_mistake(command, trained: Path) -> None:
    result = command("generate", "prompt=Once" + " upon a time" * 8500, "max_new_tokens=2")
    assert result.code == 0 and "the model sees the last" in result.err
    assert command("generate", "prompt=Once", "sampling.top_k=1000000", "num_samples=40").code == 0


GUIDE = (ROOT / "docs" / "writing.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^python generate.py (.*)$", GUIDE, re.MULTILINE))
def test_commands_of_the_guide(command, trained: Path, line: str) -> None:
    result = command("generate", *shlex.split(line), "max_new_tokens=5")
    assert result.code == 0, result.err
    assert result.out.startswith("Once upon a time")


def test_every_way_is_in_the_guide_and_the_default_is_what_it_says(command, trained: Path) -> None:
    for way in (ROOT / "conf" / "sampling").glob("*.yaml"):
        assert f"| `{way.stem}`" in GUIDE
    texts = [command("generate", "prompt=Once", *way).out for way in ([], ["sampling=top_p"])]
    assert texts[0] == texts[1] and "`top_p` (the default)" in GUIDE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stop="], "stop: is empty"),
        (["stop=[[a]]"], "must be a text or a list of texts"),
        (["num_samples=3", "best_of=2"], "best_of=2: must be at least num_samples=3"),
        (["best_of=2", "sampling=beam"], "give one of them"),
        (["sampling.min_p=2"], "sampling.min_p=2.0 must be from 0 to 1"),
        (["sampling.repetition_penalty=0"], "must be at least 0.001"),
        (["sampling.no_repeat_ngram=0"], "must be at least 1"),
        (["sampling.beams=0"], "sampling.beams=0 must be at least 1"),
        (["save_as=runs"], "save_as=runs: runs.txt is a folder"),
        (["save_as=/dev/null/x"], "cannot write to /dev/null"),
        (["save_as=.."], "is not a file name"),
        (["save_as=out/"], "is not a file name"),
        (["save_as=~nobody_here/x"], "save_as=~nobody_here/x: "),
        (["save_as=" + "x" * 300], "File name too long"),
        (["sampling=beam", "sampling.length_penalty=1000"], "must be from -10 to 10"),
        (["sampling.temperature=1e39"], "must be from 0 to 10000"),
    ],
)
def test_mistakes(command, trained: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "runs.txt").mkdir(exist_ok=True)
    result = command("generate", "prompt=Once", "max_new_tokens=2", *arguments)
    assert result.code == 2, result.out
    assert words in result.err and result.err.count("\n") == 1 and result.out == ""
