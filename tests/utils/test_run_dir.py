"""Run folders: the lock that tells whether a process trains in one."""

import fcntl
import threading
from pathlib import Path

import pytest

from gptlab.utils import run_dir


@pytest.mark.fast
def test_asking_whether_a_run_is_locked_keeps_nobody_from_locking_it(tmp_path: Path) -> None:
    with run_dir.lock_run_dir(tmp_path):
        assert run_dir.is_locked(tmp_path)
    with (tmp_path / run_dir.LOCK_FILE).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # like another process that asks at the same time
        assert not run_dir.is_locked(tmp_path)
        threading.Timer(0.05, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        with run_dir.lock_run_dir(tmp_path):
            assert run_dir.is_locked(tmp_path)
