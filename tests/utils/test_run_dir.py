"""Create, find and lock run folders."""

import errno
import os
import threading
from pathlib import Path

import psutil
import pytest
from filelock import lock_descriptor, unlock_descriptor

from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

pytestmark = pytest.mark.fast


def test_lock_checks_disturb_neither_a_process_that_locks_nor_each_other(tmp_path: Path) -> None:
    (tmp_path / run_dir.LOCK_FILE).touch()
    for check in (lambda: not run_dir.is_locked(tmp_path), lambda: locks(tmp_path)):
        with (tmp_path / run_dir.LOCK_FILE).open(
            encoding="utf-8"
        ) as other:  # a process that checks just now
            assert lock_descriptor(other.fileno(), blocking=False)
            threading.Timer(0.005, unlock_descriptor, [other.fileno()]).start()
            assert check()


def locks(folder: Path) -> bool:
    with run_dir.lock_run_dir(folder):
        return run_dir.is_locked(folder)


def test_a_run_on_a_disk_without_locks_is_trained_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    with run_dir.lock_run_dir(tmp_path):
        assert "cannot lock a run (Function not implemented)" in capsys.readouterr().err


def test_no_file_is_open_in_a_folder_that_is_renamed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_dir.reserve_run_dir(tmp_path, "run")
    open_files = []

    def rename(source: Path, target: Path) -> None:  # Windows refuses if a file in it is open
        open_files.extend(psutil.Process().open_files())
        source.rename(target)

    monkeypatch.setattr(run_dir, "rename", rename)
    with run_dir.lock_run_dir(folder, published=False):
        run_dir.publish_run_dir(Path("run"))
        assert run_dir.is_locked(folder)
    assert not run_dir.is_locked(folder)
    assert not [file for file in open_files if str(tmp_path) in file.path]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ('a:b?c*d<e>f|g"h/i\\j', "a-b-c-d-e-f-g-h-i-j"),
        ("ends with a dot. ", "ends-with-a-dot"),
        ("CON", "run-CON"),
        ("nul.txt", "run-nul.txt"),
        ("console", "console"),
        ("???", "run"),
        ("x" * 79 + ".5", "x" * 79),
        ("あ" * 50, "あ" * 26),
    ],
)
def test_names_are_valid_on_every_system(name: str, safe: str) -> None:
    assert run_dir.safe_name(name) == safe
    assert len(safe.encode()) <= run_dir.MAX_NAME_BYTES


def test_a_run_folder_appears_when_it_is_published(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = (run_dir.reserve_run_dir(root, "a run") for _ in range(2))
    assert [folder.name for folder in (first, second)] == ["a-run", "a-run-2"]
    assert not first.exists() and run_dir.staging_dir(first).is_dir()
    run_dir.publish_run_dir(first)
    run_dir.discard_staging_dir(second)
    assert [path.name for path in root.iterdir()] == ["a-run"]


@pytest.mark.parametrize("may_write", [True, False])
def test_a_lock_excludes_a_second_run_but_not_readers(
    tmp_path: Path, may_write, monkeypatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: may_write)  # False: somebody else's runs
    assert not run_dir.is_locked(tmp_path)
    with run_dir.lock_run_dir(tmp_path):
        assert run_dir.is_locked(tmp_path)
        with pytest.raises(UserError, match="another process"), run_dir.lock_run_dir(tmp_path):
            pass
    assert not run_dir.is_locked(tmp_path)


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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2026-01-02_030405_spm", "2026-01-02_030405_spam"),
        ("runs/2026-01-02_030405_spm", "2026-01-02_030405_spam"),
        ("stori", "2026-01-03_030405_story"),  # the newer one
        ("spam", "2026-01-02_030405_spam"),
        ("corpra", "corpora"),
    ],
)
def test_a_mistyped_run_gets_the_nearest_name_of_the_run_root(
    tmp_path: Path, monkeypatch, typed: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("01_030405_story", "02_030405_spam", "03_030405_story")):
        config = tmp_path / "elsewhere" / f"2026-01-{name}" / "config.yaml"
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (number, number))
    Path("corpora").mkdir()
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        run_dir.find_checkpoint(typed, "elsewhere")
