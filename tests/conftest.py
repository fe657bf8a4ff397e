"""Shared by the tests: commands run in this process, and small corpora of our own making."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus

pytest.register_assert_rewrite("tests.app.serving")
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits

# A model that trains a step in milliseconds.
TINY = ["model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.d_ff=32"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def ordered_boards() -> None:
    """TensorBoard reads a run's files in the order of their names, which end in how many this
    process has made: within a second, 10 comes before 9. All have as many digits here."""
    from tensorboard.summary.writer import event_file_writer

    event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, ordered_boards: None
) -> Callable[..., Result]:
    """`command("train", "a=b", …)` as `python train.py a=b …` in an empty folder would run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))

    def run(module: str, *arguments: str) -> Result:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *arguments])
        capfd.readouterr()
        try:
            importlib.import_module(module).main()
            code = 0
        except SystemExit as end:
            code = end.code
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of two steps was trained, its corpus beside it."""
    place = tmp_path_factory.mktemp("trained")
    typed = [*TINY, "profile=smoke", "trainer.max_steps=2"]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed], cwd=place, check=True, capture_output=True
    )
    return place


@pytest.fixture
def trained(command: Callable[..., Result], trained_once: Path, tmp_path: Path) -> Path:
    """The folder of a run of two steps, the test's own."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """300 embedded stories, tokenised by words."""
    root = tmp_path_factory.mktemp("corpora")
    return open_corpus(toy_data(), TokenizerConfig(name="words"), seed=1, corpus_root=str(root))


def toy_data(**changes: object) -> DataConfig:
    settings = {"batching": "rows", "eot_first": True, "batch_size": 4, "split": 0.1}
    return DataConfig(source="toy_stories", max_samples=300, **(settings | changes))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
