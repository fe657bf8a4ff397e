"""Runs that several tests look at, trained once per process."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Result
from tests.faults.compare import only


class TrainedRun(NamedTuple):
    folder: Path
    result: Result


class RunCache(NamedTuple):
    root: Path
    runs: dict[tuple[str, ...], TrainedRun]


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory: pytest.TempPathFactory) -> RunCache:
    return RunCache(tmp_path_factory.mktemp("trained_once"), {})


@pytest.fixture
def train_once(command, run_cache: RunCache) -> Callable[..., TrainedRun]:
    """Train with these arguments, or return the run that an earlier test trained with them.

    Tests must not change its folder.
    """

    def train(*arguments: str) -> TrainedRun:
        if arguments not in run_cache.runs:
            run_root = run_cache.root / f"runs_{len(run_cache.runs)}"
            corpus_root = f"corpus_root={run_cache.root / 'corpora'}"
            result = command("train", *arguments, f"run_root={run_root}", corpus_root)
            assert result.code == 0, result.err
            run_cache.runs[arguments] = TrainedRun(only(run_root), result)
        return run_cache.runs[arguments]

    return train
