"""Shared by the report's tests: one sweep, trained and evaluated once per process."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY

SWEEP_NAME = "<i>&tiny"
SWEEP = [
    *(*TINY[1:], "profile=smoke", "data.max_samples=200", "trainer.max_steps=4"),
    *("trainer.eval_every=2", "trainer.log_every=1", "trainer.sample_every=2", "max_new_tokens=20"),
    *("model.n_layer=1,2", "model.d_model=8,16", f"name={SWEEP_NAME}"),
]


def run_in(folder: Path, module: str, *arguments: str) -> None:
    """Run a command of gptlab in this process and in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *arguments])
        importlib.import_module(module).main()


@pytest.fixture(scope="session")
def sweep_root(tmp_path_factory: pytest.TempPathFactory, ordered_boards: None) -> Path:
    """A folder whose runs/ holds a sweep of four tiny runs over two numbers; two are evaluated."""
    root = tmp_path_factory.mktemp("sweep")
    run_in(root, "train", "-m", *SWEEP)
    (sweep,) = (root / "runs").glob("*_sweep")
    for job in sorted(sweep.glob("[0-9]*/"))[:2]:
        arguments = ("suite=[perplexity]", "max_tokens=2000", f"run={job}")
        run_in(root, "gptlab.evaluate", *arguments)
    return root


@pytest.fixture
def sweep(sweep_root: Path) -> Path:
    """The sweep's folder. Do not write into it."""
    (folder,) = (sweep_root / "runs").glob("*_sweep")
    return folder


@pytest.fixture
def run_folder(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A finished run in runs/ of the current folder: a copy for this test."""
    folder = tmp_path / "runs" / "2026-01-01_120000_run"
    shutil.copytree(sorted(sweep.glob("[0-9]*/"))[0], folder)
    monkeypatch.chdir(tmp_path)
    yield folder
