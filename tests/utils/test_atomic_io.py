"""Folders and files that appear complete or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.utils.atomic_io import atomic_folder, write_files_atomically
from tests.conftest import ROOT, files_below

pytestmark = pytest.mark.fast


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "corpora" / "corpus"
    with pytest.raises(ZeroDivisionError), atomic_folder(final) as building:
        (building / "half").write_text("half", encoding="utf-8")
        print(1 / 0)
    assert not files_below(tmp_path)
    with atomic_folder(final) as building:
        (building / "all").write_text("all", encoding="utf-8")
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


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError):
        write_files_atomically(tmp_path, {"b": b"1", "a": b"2"})
    assert not files_below(tmp_path)
    write_files_atomically(tmp_path, {"a": b"1", "c": b"2"})
    assert files_below(tmp_path) == ["a", "c"]
