"""Fixtures that tests share: commands run in this process, trained runs, small corpora."""

import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.toy.stories import story_grammar
from gptlab.utils import plugins

pytest.register_assert_rewrite("tests.app.serving")
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits
# Test workers warn where a file is opened without an encoding; their child processes do not say so.
os.environ.setdefault("PYTHONWARNDEFAULTENCODING", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore::EncodingWarning")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # under a shell's `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A model whose training step takes milliseconds, without plots, which take longer than the run.
TINY = [
    *("model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.d_ff=32"),
    "log_interpretability=[]",
]
# For tests that fork, send signals to processes, open pseudo-terminals, or make links.
posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no such call")
# Folders whose tests share trained runs, sweeps or a browser: each is tested by one worker.
SHARING = ("app", "evaluation", "report")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file, or each folder that shares runs, to one worker: fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return path.parent.name if path.parent.name in SHARING else str(path)

    return FileScheduling(config, log)


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
        plugins.trusted.clear()  # a new process trusts no package
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *arguments])
        capfd.readouterr()
        try:
            importlib.import_module(module).main()
            code = 0
        except SystemExit as end:
            code = end.code
        return Result(code, *capfd.readouterr())

    return run


class SharedRun(NamedTuple):
    """A run that several tests read, or copy before they change it."""

    root: Path  # holds runs/ and corpora/
    folder: Path  # the run
    result: Result

    def copy(self, destination: Path) -> Path:
        """Copy runs/ and corpora/; return the copied run."""
        shutil.copytree(self.root, destination, dirs_exist_ok=True)
        return destination / "runs" / self.folder.name


@pytest.fixture(scope="session")
def train_once(
    tmp_path_factory: pytest.TempPathFactory, ordered_boards: None
) -> Callable[..., SharedRun]:
    """Train with these arguments, once per process; a run may end with a simulated crash."""
    shared: dict[tuple[str, ...], SharedRun] = {}

    def train(*arguments: str) -> SharedRun:
        from tests.faults.callbacks import SimulatedCrash  # imports Lightning

        if arguments in shared:
            return shared[arguments]
        root = tmp_path_factory.mktemp("shared")
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
            contextlib.suppress(SimulatedCrash),
        ):
            patch.syspath_prepend(str(ROOT))
            patch.setattr(sys, "argv", ["train.py", *arguments])
            importlib.import_module("train").main()
        (folder,) = (path.parent for path in (root / "runs").glob("[!.]*/config.yaml"))
        shared[arguments] = SharedRun(root, folder, Result(0, out.getvalue(), err.getvalue()))
        return shared[arguments]

    return train


@pytest.fixture(scope="session")
def trained_once(train_once: Callable[..., SharedRun]) -> Path:
    """A folder with runs/ and corpora/ of a run of two steps, trained once per process."""
    return train_once(*TINY, "profile=smoke", "trainer.max_steps=2").root


@pytest.fixture
def trained(command: Callable[..., Result], trained_once: Path, tmp_path: Path) -> Path:
    """The folder of a run of two steps: a copy for this test."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """300 toy stories, tokenized by words."""
    root = tmp_path_factory.mktemp("corpora")
    return open_corpus(toy_data(), TokenizerConfig(name="words"), seed=1, corpus_root=str(root))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder that stands in for a data set on the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for number, (name, count) in enumerate({"train": 60, "validation": 10}.items()):
        texts = [story_grammar().generate(number, i).text for i in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / f"{name}.parquet")
    return folder


def toy_data(**changes: object) -> DataConfig:
    settings = {"batching": "rows", "eot_first": True, "batch_size": 4, "split": 0.1}
    return DataConfig(source="toy_stories", max_samples=300, **(settings | changes))


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
