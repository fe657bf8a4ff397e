"""Run every command of the README, in the order in which it is printed."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY

BLOCKS = re.findall(
    r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M
)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
# Override sizes, so that every preset trains in moments.
SMALLER = [
    *("profile=smoke", "model.n_layer=1", "model.d_model=24", "model.d_ff=32"),
    "model.context_length=64",
]


def test_quick_start_has_one_command_per_block() -> None:
    assert [len(block.splitlines()) for block in BLOCKS[:2]] == [1, 1]
    assert COMMANDS[0].endswith("python train.py") and COMMANDS[1].endswith("pytest")


def test_commands_are_typed_alike_in_every_shell() -> None:
    """sh, zsh, cmd and PowerShell agree on double quotes around words, and on little else."""
    pages = [ROOT / "README.md", *(ROOT / ".github").glob("*.md"), *(ROOT / "docs").glob("*.md")]
    unlike = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M))
        lines = re.findall(r"^(?:python|gptlab|pip) .*", blocks, re.M)
        lines += re.findall(r"`((?:python|gptlab|pip) [^`\n]*)`", text)
        special = set("'[]*#$\\;|<>%^")
        unlike += [line for line in lines if special & set(re.sub(r'"[^"]*"', "", line))]
    assert not unlike


TRAINING = [c for c in COMMANDS[2:] if c.startswith("python train.py") and "resume=" not in c]


@pytest.mark.parametrize("line", TRAINING)
def test_training_command_trains(command, tmp_path: Path, hub: Path, line: str) -> None:
    (tmp_path / "my_novel.txt").write_text(
        (ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8"
    )
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


def test_resume_command_continues_a_stopped_run(command) -> None:
    (line,) = (c for c in COMMANDS if "resume=" in c)
    stop = {"_target_": "tests.faults.callbacks.StopAtStep", "step": 1, "signal": 2}
    stop_arguments = [f"+callbacks.stop.{name}={value}" for name, value in stop.items()]
    result = command("train", *TINY, "profile=smoke", *stop_arguments)
    assert result.code == 130 and line.split("=")[0] in result.err
    result = command("train", *shlex.split(line)[2:], "callbacks=none")
    assert result.code == 0 and "resuming after step" in result.out and "done in" in result.out


GENERATING = [c for c in COMMANDS if "generate.py" in c and "input=" not in c]


@pytest.mark.parametrize("line", GENERATING)
def test_generate_command_continues_its_prompt(command, trained: Path, line: str) -> None:
    typed = shlex.split(line)[2:]
    result = command("generate", *typed, "max_new_tokens=5")
    assert result.code == 0, result.err
    prompt = next(a for a in typed if a.startswith("prompt=")).partition("=")[2]
    assert result.out.startswith(prompt)


@pytest.mark.parametrize("line", [c for c in COMMANDS if "gptlab.prepare" in c])
def test_prepare_command_builds_the_corpus(command, hub: Path, line: str) -> None:
    typed = [*shlex.split(line)[3:], "data.max_samples=200"]
    result = command("gptlab.prepare", *typed, *([f"data.hub={hub}"] if "tinys" in line else []))
    assert result.code == 0, result.err
    assert "documents" in result.out
    assert ("every block matches" in result.out) == ("verify=true" in line)


def test_evaluate_command_prints_every_suite(command, trained: Path) -> None:
    (line,) = (c for c in COMMANDS if "suite=" in c)
    result = command(*shlex.split(line)[2:], "num_samples=3", "max_new_tokens=9", "max_tokens=300")
    assert result.code == 0, result.err
    assert all(name in result.out for name in ("standard_error", "distinct_1", "10_grams"))


def test_report_command_writes_a_page(command, trained: Path) -> None:
    (line,) = (c for c in COMMANDS if "gptlab.report" in c)
    result = command("gptlab.report.__main__", *shlex.split(line)[3:])
    assert result.code == 0 and "report/index.html" in result.out, result.err


def test_finetune_and_export_commands_run_in_order(command, tmp_path: Path) -> None:
    """Each command uses what the one before it made."""
    (block,) = (block for block in BLOCKS if "toy_spam" in block and "gptlab.export" in block)
    answers = []
    for line in block.splitlines():
        _, first, *rest = shlex.split(line)
        module, typed = (rest[0], rest[1:]) if first == "-m" else (Path(first).stem, rest)
        result = command(module, *typed, *(SMALLER if module == "train" else []))
        assert result.code == 0, result.err
        answers.append(result.out)
    assert answers[1].split()[0] in ("ham", "spam")
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_no_command_of_the_readme_is_left_out() -> None:
    tested = ("python train.py", "python generate.py", "python -m gptlab.", "tensorboard")
    assert all(command.startswith(tested) for command in COMMANDS[2:])
