"""Fixtures that tests share: commands run in this process, trained runs, small corpora."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.toy import stories

pytest.register_assert_rewrite("tests.app.serving")
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits

# A model whose training step takes milliseconds.
TINY = ["model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.d_ff=32"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def ordered_boards() -> None:
    """Give TensorBoard's file counters equal width.

    TensorBoard reads a run's files sorted by name, and the names of files made within one second
    differ only in a counter: 10 would sort before 9.
    """
    from tensorboard.summary.writer import event_file_writer

    event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, ordered_boards: None
) -> Callable[..., Result]:
    """Run `command("train", "a=b", …)` as `python train.py a=b …` would, in an empty folder."""
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
    """A folder with runs/ and corpora/ of a run of two steps, trained once per process."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = [*TINY, "profile=smoke", "trainer.max_steps=2"]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def trained(command: Callable[..., Result], trained_once: Path, tmp_path: Path) -> Path:
    """The folder of a run of two steps: a copy for this test."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """300 embedded stories, tokenised by words."""
    root = tmp_path_factory.mktemp("corpora")
    return open_corpus(toy_data(), TokenizerConfig(name="words"), seed=1, corpus_root=str(root))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder that stands in for a data set on the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for number, (name, count) in enumerate({"train": 60, "validation": 10}.items()):
        texts = [stories.generate_story(number, i).text for i in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"{name}.parquet")
    return folder


def toy_data(**changes: object) -> DataConfig:
    settings = {"batching": "rows", "eot_first": True, "batch_size": 4, "split": 0.1}
    return DataConfig(source="toy_stories", max_samples=300, **(settings | changes))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
