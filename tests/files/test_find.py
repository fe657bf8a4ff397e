"""Files are found in folders, globs and lists, each once; what is left out is counted."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from gptlab.config.schema import DataConfig
from gptlab.files.find import check_files, file_stats, find_files
from gptlab.files.report import ReadReport
from gptlab.utils.errors import UserError
from tests.files.reading import read, write

pytestmark = pytest.mark.fast
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="no links, pipes or such names")


def test_folders_are_read_in_order_without_leftovers(tmp_path: Path) -> None:
    for name in ("b/x.md", "a.TXT", "b/a.py", "c.rst", "LICENSE", "d.log"):
        write(tmp_path / name, name)
    leftovers = (
        "._a.txt .ipynb_checkpoints/a.txt .git/config a.txt~ ~$a.txt #a.txt# __pycache__/x.py"
    )
    for name in [*leftovers.split(), "Thumbs.db"]:
        write(tmp_path / name, "leftover")
    for name in ("x.dat", "y.dat", "z.svg"):
        write(tmp_path / name, "unknown")
    write(tmp_path / "p.png", b"\x89PNG\0")
    write(tmp_path / "data.txt", b"ab\0\1cd" * 9)
    documents, (line,) = read(tmp_path)
    assert documents == ["LICENSE", "a.TXT", "b/a.py", "b/x.md", "c.rst", "d.log"]
    assert "8 hidden files" in line and "2 .dat files" in line and "1 .svg file" in line
    assert "1 PNG image" in line and "1 binary file" in line
    assert read(tmp_path / "x.dat") == (["unknown"], ["1 .dat file"])  # named alone
    (tmp_path / "empty").mkdir()
    for folder, seen in (
        (tmp_path / "empty", "it is empty"),
        (tmp_path / ".git", "only 1 unnamed"),
    ):
        if folder.name == ".git":
            write(folder / "config", b"\0\1")
            seen = "only 1 binary file"
        with pytest.raises(UserError, match=rf"no text in this folder .{seen}"):
            read(folder)


def test_a_folder_saved_by_datasets_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"text": ["a fox", "rain"], "n": [1, 2]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    documents, (line,) = read(tmp_path / "saved")
    assert documents == rows["text"]
    assert line == "1 .arrow file (column text); skipped 2 metadata files"


@posix_only
def test_links_are_followed_once_and_circles_are_noticed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    write(folder / "a.txt", "a")
    write(outside / "b.txt", "b")
    (folder / "again.txt").symlink_to(folder / "a.txt")
    (folder / "broken.txt").symlink_to(tmp_path / "nothing")
    (folder / "circle").symlink_to(folder)
    (folder / "other").symlink_to(outside)
    (folder / "twice").symlink_to(outside)
    documents, (line,) = read(folder)
    assert documents == ["a", "b"]
    assert line == "2 .txt files; skipped 3 repeated links, 1 broken link"


def test_globs_and_lists_name_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "d.md", "e[1].txt", "f.dat"):
        write(tmp_path / name, name)
    assert read("*.txt")[0] == ["a.txt", "b.txt", "e[1].txt"]
    assert read("**/*.txt")[0] == ["a.txt", "b.txt", "deep/er/c.txt", "e[1].txt"]
    assert read("[ab].txt")[0] == ["a.txt", "b.txt"]
    assert read("e[1].txt")[0] == ["e[1].txt"]  # a file of this very name
    assert read("dee*")[0] == ["deep/er/c.txt"]
    assert read(["d.md", "deep", "*.dat"])[0] == ["d.md", "deep/er/c.txt", "f.dat"]
    with pytest.raises(UserError, match="no file has such a name"):
        read("*.csv")
    with pytest.raises(UserError, match="an address; download the file"):
        read("https://example.org/a.txt")
    with pytest.raises(UserError, match=r"in this list, x.txt does not exist"):
        read("a.txt,x.txt")


@posix_only
@pytest.mark.parametrize(
    "name", ["a=b.txt", "a,b.txt", "a\nb.txt", b"a\xff.txt", "ü 猫.txt", "-x.txt"]
)
def test_any_name_can_be_read(tmp_path: Path, name: str | bytes) -> None:
    path = write(tmp_path / os.fsdecode(name), "hello")
    assert read(path)[0] == read(tmp_path)[0] == ["hello"]
    write(path, b"\0\1")
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.line().isprintable()


@posix_only
def test_pipes_sockets_and_locked_files_are_named(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "a.txt", "a")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for name in ("pipe", "socket", "/dev/null"):
            with pytest.raises(UserError, match="can be read only once"):
                read(name)
        documents, (line,) = read(tmp_path)
    assert documents == ["a"] and "2 special files" in line

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a.txt: cannot be read .Permission denied"):
        read(tmp_path / "a.txt")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        read(tmp_path)


def test_many_small_files_are_read_in_little_time(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.txt").write_bytes(b"Once upon a time.\n" * 10)
    began = time.process_time()
    documents, report = read(tmp_path)
    assert len(documents) == 1000 and report == ["1,000 .txt files"]
    assert time.process_time() - began < 10  # 0.4 s where this was written


def test_the_identity_names_the_format_only_where_reading_it_is_new(tmp_path: Path) -> None:
    new = {
        "a.csv": "text\na\n",
        "b.html": "<html>b",
        "C.JSONL": '{"text": "c"}\n',
        "d.txt": '["d"]',
    }
    old = {"a.txt": "a", "b.md": "b", "c.jsonl": '{"text": "c"}\n', "d.json": '["d"]', "e": "e"}
    for name, content in (new | old).items():
        path = write(tmp_path / name, content)
        data = DataConfig(path=str(path))
        ((_, size, modified, *format),) = file_stats(
            find_files("data.path", str(path), data, ReadReport())
        )
        assert (size, modified) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert bool(format) == (name in new)


def test_a_check_needs_no_tensor(tmp_path: Path) -> None:
    """The first text of the first file is read, so that a wrong column is refused at once."""
    write(tmp_path / "a.csv", "title,story\nA,b\n")
    with pytest.raises(UserError, match="no column 'text'"):
        check_files("data.path", str(tmp_path / "a.csv"), DataConfig())
    check_files("data.path", str(tmp_path / "a.csv"), DataConfig(text_column="Story"))
    with pytest.raises(UserError, match="has no text and no label among: title, story"):
        check_files("data.path", str(tmp_path / "a.csv"), DataConfig(task="classification"))
    write(tmp_path / "empty.txt", "")
    with pytest.raises(UserError, match="has no text, the file is empty"):
        check_files("data.path", str(tmp_path / "empty.txt"), DataConfig())
