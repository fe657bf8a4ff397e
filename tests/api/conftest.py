"""One run that the tests of the Python entry read."""

import contextlib
from pathlib import Path

import pytest

import gptlab
from tests.conftest import TINY


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, ordered_boards: None) -> gptlab.Run:
    with contextlib.chdir(tmp_path_factory.mktemp("python")):
        return gptlab.train(*TINY, profile="smoke", prompt="Once upon a time")


@pytest.fixture
def home(run: gptlab.Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with runs/ and corpora/ of the run."""
    monkeypatch.chdir(run.folder.parent.parent)
    return Path.cwd()
