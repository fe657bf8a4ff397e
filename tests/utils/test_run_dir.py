"""Create, find and lock run folders."""

import fcntl
import threading
from pathlib import Path

import pytest

from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

pytestmark = pytest.mark.fast


def test_a_lock_check_does_not_block_a_process_that_locks(tmp_path: Path) -> None:
    with run_dir.lock_run_dir(tmp_path):
        assert run_dir.is_locked(tmp_path)
    with (tmp_path / run_dir.LOCK_FILE).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # like another process that asks at the same time
        assert not run_dir.is_locked(tmp_path)
        threading.Timer(0.05, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        with run_dir.lock_run_dir(tmp_path):
            assert run_dir.is_locked(tmp_path)


def test_a_run_folder_appears_when_it_is_published(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = (run_dir.reserve_run_dir(root, "a run") for _ in range(2))
    assert [folder.name for folder in (first, second)] == ["a-run", "a-run-2"]
    assert not first.exists() and run_dir.staging_dir(first).is_dir()
    run_dir.publish_run_dir(first)
    run_dir.discard_staging_dir(second)
    assert [path.name for path in root.iterdir()] == ["a-run"]


def test_a_lock_excludes_a_second_run_but_not_readers(tmp_path: Path) -> None:
    assert not run_dir.is_locked(tmp_path)
    with run_dir.lock_run_dir(tmp_path):
        assert run_dir.is_locked(tmp_path)
        with pytest.raises(UserError, match="another process"), run_dir.lock_run_dir(tmp_path):
            pass
    assert not run_dir.is_locked(tmp_path)
    with (tmp_path / run_dir.LOCK_FILE).open("rb") as reader:
        assert run_dir.try_lock(reader.fileno(), shared=True)
        assert not run_dir.is_locked(tmp_path)  # two readers do not exclude each other


def test_the_newest_checkpoint_is_found_and_a_baseline_comes_last(tmp_path: Path) -> None:
    for name in ("1", "2", "3_random"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
        (tmp_path / name / "config.yaml").touch()
    found = run_dir.find_checkpoint("latest", str(tmp_path))
    assert found == tmp_path / "2" / "checkpoints" / "last.ckpt"
    (found.parent / "best.ckpt").touch()
    assert run_dir.find_checkpoint("2", str(tmp_path)).name == "best.ckpt"
    with pytest.raises(UserError, match="run=4: no such run folder"):
        run_dir.find_checkpoint("4", str(tmp_path))
