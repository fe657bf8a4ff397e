"""The core as on Windows, and with consoles that cannot encode every character."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENCODINGS = ["ascii", "iso-8859-1", "utf-8"]


def run_python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
    )


def test_the_core_runs_as_on_windows_with_ascii_as_the_system_encoding(tmp_path: Path) -> None:
    done = run_python(
        tmp_path,
        *("-X", "warn_default_encoding", "-m", "tests.as_on_windows"),
        **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert "best possible loss" in done.stdout.decode("ascii")


@pytest.mark.fast
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [([str(ROOT / "train.py"), "--help"], "KEY=VALUE "), (["-m", "gptlab"], "COMMAND ")],
)
def test_help_is_printed_in_every_encoding(encoding, arguments, words, tmp_path: Path) -> None:
    done = run_python(tmp_path, *arguments, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and not done.stderr
    assert words + ("…" if encoding == "utf-8" else "?") in done.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_commands_print_in_every_encoding(encoding: str, command, trained, monkeypatch) -> None:
    for name, *arguments in (
        ["generate", "prompt=Once é … 中", "unknown=skip", "max_new_tokens=3"],
        ["gptlab.evaluate", "suite=[perplexity]"],
        ["gptlab.report.__main__", "runs"],
        ["gptlab.report.__main__", "--help"],
        ["gptlab.report.sampling_study", "--help"],
        ["gptlab.bench.__main__", "--help"],
    ):
        output = io.TextIOWrapper(io.BytesIO(), encoding)  # strict, as Python's is by default
        monkeypatch.setattr(sys, "stdout", output)
        result = command(name, *arguments)
        output.flush()
        assert result.code == 0, result.err
        assert output.buffer.getvalue().decode(encoding)
