"""The user's own choices in a folder named by Hydra's --config-dir."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from gptlab.config.help import help_text
from tests.conftest import TINY

MINE = ["--config-dir", "mine"]


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """A folder with a model and an experiment; the test runs its command in the parent folder."""
    for name, text in {
        "model/mine.yaml": "n_layer: 1\nn_head: 3\nd_model: 12\nd_ff: 20\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /model: mine\n"
        "  - override /optim: sgd\n\nseed: 7\n",
    }.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "mine"


def test_own_choices_train_and_a_resumed_run_needs_none_of_their_files(
    command, config_dir: Path, tmp_path: Path
) -> None:
    small = [*TINY[4:], "profile=smoke", "trainer.max_steps=1", "data.max_samples=60"]
    result = command("train", *MINE, "experiment=mine", *small)
    assert result.code == 0, result.err
    assert "width 12" in result.out and "(optim=sgd, set by experiment=mine)" in result.out
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("_mine")
    stored = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (stored["model"]["n_head"], stored["seed"]) == (3, 7)
    shutil.rmtree(config_dir)
    result = command("train", f"resume={run}", "trainer.max_steps=2")
    assert result.code == 0 and "resuming after step 1" in result.out, result.err


def test_own_choices_are_listed_in_help_and_errors(
    command, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command("train", *MINE, "model=mein")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "medium, mine, small" in result.err and "did you mean 'mine'?" in result.err
    assert "mine" not in command("train", "model=mein").err
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir=mine", "--help"])
    (models,) = (line for line in help_text("train").splitlines() if line.startswith("  model="))
    assert ", mine," in models
    assert "--config-dir FOLDER" in help_text("generate")


@pytest.mark.parametrize(
    ("folder", "words"),
    [("nowhere", "nowhere: no such folder"), ("mine", "gptlab has model=toy itself")],
)
def test_folders_that_would_be_ignored_are_refused(
    command, config_dir: Path, folder: str, words: str
) -> None:
    (config_dir / "model" / "toy.yaml").write_text("n_layer: 1\n", encoding="utf-8")
    result = command("train", "--config-dir", folder, "model=toy")
    assert result.code == 2 and words in result.err and result.err.count("\n") == 1
