"""Errors in one line, folders that appear complete or not at all, and locks of run folders."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.utils import run_dir
from gptlab.utils.atomic_io import atomic_folder, write_files_atomically
from gptlab.utils.errors import UserError, did_you_mean, exit_on_error, resolve_choice
from gptlab.utils.hashing import derive_seed
from tests.conftest import ROOT, files_below

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a=b: wrong\n\x1b"), 2, "error: a=b: wrong\\n\\x1b\n"),
        (OSError(errno.ENOSPC, "x", "file"), 2, "error: file: No space left on device; the last"),
        (MemoryError(), 2, "error: out of memory (MemoryError); use a smaller num_samples"),
        (RuntimeError("can't allocate memory: 9 GB\nmore"), 2, "error: out of memory (can't"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_expected_failures_are_one_line_and_an_exit_code(error, code, line, capsys) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("generate"):
        raise error
    printed = capsys.readouterr().err
    assert end.value.code == code and printed.startswith(line)
    assert printed.strip().count("\n") == 0


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error("train"):
        print(1 / 0)


def test_invalid_choices_name_the_choices_and_the_nearest() -> None:
    table = {"cosine": 1, "constant": 2}
    assert resolve_choice("optim.schedule", "cosine", table) == 1
    with pytest.raises(UserError) as error:
        resolve_choice("optim.schedule", "cosin", table)
    assert str(error.value) == (
        "optim.schedule=cosin: invalid choice; choose from cosine, constant; did you mean 'cosine'?"
    )
    assert did_you_mean("xyz", table) == ""


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "corpora" / "corpus"
    with pytest.raises(ZeroDivisionError), atomic_folder(final) as building:
        (building / "half").write_text("half")
        print(1 / 0)
    assert not files_below(tmp_path)
    with atomic_folder(final) as building:
        (building / "all").write_text("all")
        assert not final.exists()
    assert files_below(tmp_path) == ["corpora/corpus/all"]


def test_builds_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from gptlab.utils.atomic_io import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1])): os._exit(1)"
    )
    final = tmp_path / "corpus"
    subprocess.run([sys.executable, "-c", code, str(final)], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_folder(final):
        pass
    assert list(tmp_path.iterdir()) == [final]


def test_files_are_written_together(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError):
        write_files_atomically(tmp_path, {"b": b"1", "a": b"2"})
    assert not files_below(tmp_path)
    write_files_atomically(tmp_path, {"a": b"1", "c": b"2"})
    assert files_below(tmp_path) == ["a", "c"]


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


def test_seeds_depend_on_their_numbers_only() -> None:
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(2, 1)
    assert 0 <= derive_seed(1337) < 2**63
