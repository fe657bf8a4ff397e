"""What a user types: every command of the README, and mistakes that must end well."""

import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gptlab.data.sources import require_network
from gptlab.data.toy import stories
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY, files_below

BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
# Small sizes on top of each command's own, so that the presets too train in moments.
SMALLER = [
    *("profile=smoke", "model.n_layer=1", "model.d_model=24", "model.d_ff=32"),
    "model.context_length=64",
]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder that stands in for a data set of the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for number, (name, count) in enumerate({"train": 60, "validation": 10}.items()):
        texts = [stories.write(number, i).text for i in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"{name}.parquet")
    return folder


def test_quick_start_is_one_command_a_block() -> None:
    assert [len(block.splitlines()) for block in BLOCKS[:2]] == [1, 1]
    assert COMMANDS[0].endswith("python train.py") and COMMANDS[1].endswith("pytest")


TRAINING = [c for c in COMMANDS[2:] if c.startswith("python train.py") and "resume=" not in c]


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_of_the_readme(command, tmp_path: Path, hub: Path, line: str) -> None:
    (tmp_path / "my_novel.txt").write_text((ROOT / "README.md").read_text())
    from_hub = re.search("data=(tiny|fineweb)|experiment=tiny", line)
    arguments = [f"data.hub={hub}"] if from_hub else []
    if "fineweb" in line:
        arguments.append("data.hub_config=null")
    typed = shlex.split(line)[2:]
    size = [s for s in SMALLER if s.partition("=")[0] not in line]
    size = [s for s in size if "experiment=" not in line or "context" not in s]
    result = command("train", *typed, *size, *arguments)
    assert result.code == 0, result.err
    assert "done in" in result.out
    assert "Traceback" not in result.err + result.out


def test_resuming_command_of_the_readme(command) -> None:
    (line,) = (c for c in COMMANDS if "resume=" in c)
    stopped = ["+callbacks.stop._target_=tests.faults.callbacks.Stop", "+callbacks.stop.step=1"]
    result = command("train", *TINY, "profile=smoke", *stopped, "+callbacks.stop.signal=2")
    assert result.code == 130 and line.split("=")[0] in result.err
    result = command("train", *shlex.split(line)[2:], "callbacks=none")
    assert result.code == 0 and "goes on after step" in result.out and "done in" in result.out


WRITING = [c for c in COMMANDS if "generate.py" in c and "echo" not in c and "input=" not in c]


@pytest.mark.parametrize("line", WRITING)
def test_generating_commands_of_the_readme(command, trained: Path, line: str) -> None:
    typed = shlex.split(line)[2:]
    result = command("generate", *typed, "max_new_tokens=5")
    assert result.code == 0, result.err
    prompt = next(a for a in typed if a.startswith("prompt=")).partition("=")[2]
    assert result.out.startswith(prompt)


@pytest.mark.parametrize("line", [c for c in COMMANDS if "gptlab.prepare" in c])
def test_preparing_commands_of_the_readme(command, hub: Path, line: str) -> None:
    typed = [*shlex.split(line)[3:], "data.max_samples=200"]
    result = command("gptlab.prepare", *typed, *([f"data.hub={hub}"] if "tinys" in line else []))
    assert result.code == 0, result.err
    assert "documents" in result.out
    assert ("every block agrees" in result.out) == ("verify=true" in line)


def test_evaluating_command_of_the_readme(command, trained: Path) -> None:
    (line,) = (c for c in COMMANDS if "suite=" in c)
    result = command(*shlex.split(line)[2:], "num_samples=3", "max_new_tokens=9", "max_tokens=300")
    assert result.code == 0, result.err
    assert all(name in result.out for name in ("standard_error", "distinct_1", "10_grams"))


def test_reporting_command_of_the_readme(command, trained: Path) -> None:
    (line,) = (c for c in COMMANDS if "gptlab.report" in c)
    result = command("gptlab.report.__main__", *shlex.split(line)[3:])
    assert result.code == 0 and "report/index.html" in result.out, result.err


def test_finetuning_commands_of_the_readme(command, tmp_path: Path) -> None:
    """Each goes on from the one before: they are run in their order."""
    (block,) = (block for block in BLOCKS if "toy_spam" in block)
    (export,) = (block for block in BLOCKS if "gptlab.export" in block)
    answers = []
    for line in [*block.splitlines(), *export.splitlines()]:
        _, first, *rest = shlex.split(line)
        module, typed = (rest[0], rest[1:]) if first == "-m" else (Path(first).stem, rest)
        result = command(module, *typed, *(SMALLER if module == "train" else []))
        assert result.code == 0, result.err
        answers.append(result.out)
    assert answers[1].split()[0] in ("ham", "spam")
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_every_command_of_the_readme_is_run_here() -> None:
    ours = ("python train.py", "python generate.py", "python -m gptlab.", "tensorboard")
    rest = [c for c in COMMANDS[2:] if not c.startswith(ours)]
    assert all("echo" in c and "generate.py" in c for c in rest)


def test_prompt_from_a_file(command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "opening.txt").write_text("Long ago")
    result = command("generate", "prompt_file=opening.txt", "sampling=greedy", "max_new_tokens=3")
    assert result.code == 0 and result.out.startswith("Long ago")


def test_tensorboard_serves_a_run(trained: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(trained.parent), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for line in server.stdout:
            if found := re.search(r"http://[\w.]+:(\d+)/", line):
                break
        url = f"http://127.0.0.1:{found[1]}/data/runs"
        for _ in range(40):
            answer = urllib.request.urlopen(url).read().decode()
            if trained.name in answer:
                break
            time.sleep(0.25)
        assert trained.name in answer
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("model", [p.stem for p in sorted((ROOT / "conf" / "model").glob("*"))])
def test_every_model_trains_and_writes(command, model: str) -> None:
    width = {"medium": 32, "large": 40, "xl": 50}.get(model, 24)  # their heads must divide it
    result = command("train", f"model={model}", *SMALLER, f"model.d_model={width}")
    assert result.code == 0, result.err
    result = command("generate", "prompt=Once upon a time", "max_new_tokens=3")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt="], "prompt: is empty"),
        (["prompt=Once xyzzy"], "lacks: ' xyzzy'"),
        (["prompt=Once", "run=nowhere"], "run=nowhere: there is no such run folder"),
        (["prompt=Once", "run=corpora"], "this folder has no checkpoint"),
        (["prompt=Once", "prompt_file=x"], "give one of them"),
        (["prompt_file=missing.txt"], "prompt_file=missing.txt: No such file"),
        (["prompt=Once", "sampling.top_k=0"], "sampling.top_k=0: must be at least 1"),
        (["prompt=Once", "sampling.temperature=-1"], "sampling.temperature=-1.0: must be from 0"),
        (["prompt=Once", "sampling.top_p=1.5"], "sampling.top_p=1.5: must be from"),
        (["prompt=Once", "max_new_tokens=0"], "max_new_tokens=0: must be at least 1"),
        (["-m", "prompt=Once", "seed=1,2"], "-m: only train.py runs sweeps"),
        (["prompt=Once", "model.n_layer=2"], "model: there is no such key"),
        (["prompt=Once", "run=~nobody"], "run=~nobody: "),
        (["prompt=Once", "sampling=topk"], "did you mean 'top_k'?"),
        (["promt=Once"], "promt: there is no such key; did you mean 'prompt'?"),
    ],
)
def test_mistakes_when_generating(command, trained: Path, arguments, words) -> None:
    result = command("generate", *arguments)
    assert result.code == 2
    assert words in result.err and result.err.count("\n") == 1
    assert result.out == ""


def test_without_any_run_generate_says_how_to_make_one(command) -> None:
    result = command("generate", "prompt=Once")
    assert result.code == 2 and "`python train.py` makes one" in result.err


def test_unknown_words_can_be_skipped(command, trained: Path) -> None:
    result = command("generate", "prompt=Once xyzzy upon", "unknown=skip", "max_new_tokens=2")
    assert result.code == 0 and result.out.startswith("Once xyzzy upon")


@pytest.mark.parametrize("text", ["Hello, I'm", "a=b ${c} {d}", "two\nlines", "مرحبا 🦊", "\\"])
def test_any_prompt_goes_through_to_the_letter(command, tmp_path: Path, text: str) -> None:
    small = [*TINY, "profile=smoke", "data.path=own.txt", "tokenizer=gpt2", "data=text"]
    (tmp_path / "own.txt").write_text("Once there was a fox.\n" * 60)
    assert command("train", *small, "trainer.max_steps=1", f"prompt={text}").code == 0
    result = command("generate", f"prompt={text}", "max_new_tokens=2", "seed=3")
    assert result.code == 0 and result.out.startswith(text)


def test_the_same_seed_writes_the_same_text(command, trained: Path) -> None:
    texts = [command("generate", "prompt=Once", f"seed={seed}").out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_network_the_hub_ends_at_once(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = command("train", "model=gpt2_4layer", "data=tinystories")
    assert result.code == 2
    began = time.perf_counter()
    with pytest.raises(UserError, match="no way to http"):
        require_network("roneneldan/TinyStories")
    assert time.perf_counter() - began < 6  # one attempt, whose own limit is 5 s
    assert "data.path=FILE" in result.err and result.err.count("\n") == 1
    assert not files_below(tmp_path)


def test_what_was_fetched_is_kept(command, hub: Path, tmp_path: Path) -> None:
    first = ["data=tinystories", f"data.hub={hub}"]
    assert command("gptlab.prepare", *first).code == 0
    raw = [name for name in files_below(tmp_path / "corpora") if name.startswith("raw/")]
    assert sorted(Path(name).name for name in raw) == ["train.jsonl", "valid.jsonl"]
    import datasets

    calls = []
    original, datasets.load_dataset = datasets.load_dataset, lambda *a, **k: calls.append(a)
    try:
        assert command("gptlab.prepare", *first, "tokenizer=words").code == 0
    finally:
        datasets.load_dataset = original
    assert not calls


def test_own_text_from_one_kilobyte_up(command, tmp_path: Path) -> None:
    story = " ".join(stories.write(3, i).text for i in range(3))[:1024]
    (tmp_path / "own.txt").write_text(story)
    result = command(
        "train", "data=text", "data.path=own.txt", "model.d_model=16", "model.n_head=2"
    )
    assert result.code == 0, result.err
    assert "the text is short: context" in result.out and "steps instead of" in result.out
    assert result.out.count("  step ") == 5
    result = command("generate", "max_new_tokens=20")
    assert result.code == 0 and len(result.out) > 5


def test_bad_text_ends_in_one_line_through_the_command(command, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "three.txt").write_text("abc")
    for name in ("empty.txt", "three.txt", "missing.txt"):
        result = command("train", "data=text", f"data.path={name}")
        assert result.code == 2 and result.err.count("\n") == 1
    assert command("train", "data=text").code == 2
    assert not (tmp_path / "runs").exists()
    assert not files_below(tmp_path / "corpora")
