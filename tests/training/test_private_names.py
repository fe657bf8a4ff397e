"""Runs do without the private names of torch and Lightning that make them faster."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch.loops.training_epoch_loop as lightning_loop
import pytest
import torch
import torch._inductor

from gptlab.training.fast import fast_loop
from tests.conftest import TINY

SETTINGS = [
    *(*TINY, "profile=smoke", "trainer.max_steps=3", "trainer.log_every=1", "data.max_samples=60"),
    *("optim.grad_clip=0.1", "trainer.accumulate_grad_batches=2", "data.batch_size=4"),
]


def losses(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [row["train/loss"] for row in csv.DictReader(file)]


@pytest.fixture
def train(command, train_once, tmp_path: Path) -> Callable[[], str]:
    """Train with everything that is faster; return what is printed, with the usual losses."""

    def run() -> str:
        usual = train_once(*SETTINGS, "trainer.compile=false", "trainer.fast_loop=false").folder
        result = command("train", *SETTINGS, "trainer.compile=step", "trainer.fast_loop=true")
        assert result.code == 0, result.err
        (folder,) = (tmp_path / "runs").iterdir()
        assert losses(folder) == losses(usual) and len(losses(usual)) >= 3
        return result.err

    return run


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C._aoti, "AOTIModelContainerRunnerCpu")
    monkeypatch.delattr(torch._inductor, "aot_compile")


def test_without_torchs_and_lightnings_private_names(
    train, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "_foreach_norm")
    monkeypatch.delattr(lightning_loop, "_TrainingEpochLoop")
    monkeypatch.delitem(sys.modules, fast_loop.__name__)
    printed = train()
    assert printed.count("not compiled (slower, with the same result)") == 1
    assert printed.count("trainer.fast_loop is off (slower, with the same result)") == 1


def test_a_renamed_attribute_of_the_loop_turns_the_fast_loop_off(
    train, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_loop, "PRIVATE_NAMES", ["_logger_connector._first_iteration"])
    assert "trainer.fast_loop is off" in train()
