"""Encodings are detected and announced; line ends and byte-order marks do not matter."""

import contextlib
import gzip
import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from gptlab.config.schema import DataConfig
from gptlab.files import decode
from gptlab.files.documents import read_documents
from gptlab.files.find import find_files
from gptlab.files.report import ReadReport
from gptlab.utils.errors import UserError
from tests.files.reading import read, write

pytestmark = pytest.mark.fast
FRENCH = "Le café était fermé à cause de la grève. Où êtes-vous allés ?\n" * 20
RUSSIAN = "Однажды жила-была лиса, и она была рада дождю.\n" * 20
CHINESE = "从前有一只狐狸，它很高兴。今天下雨了。\n" * 20


@pytest.mark.parametrize(
    ("text", "encoding", "note"),
    [
        (FRENCH, "utf-8", None),
        (FRENCH, "utf-8-sig", None),
        (FRENCH, "utf-16", "utf-16"),
        (FRENCH, "utf-16-le", "utf-16-le"),
        (FRENCH, "utf-16-be", "utf-16-be"),
        (FRENCH, "utf-32", "utf-32"),
        (FRENCH, "latin-1", "cp1252"),
        ("plain English\n" * 200_000 + "“café”", "cp1252", "cp1252"),  # far after the first bytes
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8_r"),
        (CHINESE, "gb18030", "gb18030"),
    ],
)
def test_encodings_are_detected_and_announced(tmp_path: Path, text, encoding, note) -> None:
    path = write(tmp_path / "a.txt", text.encode(encoding))
    documents, report = read(path)
    assert documents == [text.strip()]
    assert [note] == [line.split()[3].strip(",") for line in report[1:]] or note is None
    assert len(report) == 1 + (note is not None)
    documents, report = read(path, encoding=encoding)
    assert documents == [text.strip()] and len(report) == 1


def test_a_key_names_the_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Zażółć gęślą jaźń".encode("cp1250"))
    assert read(path, encoding="cp1250")[0] == ["Zażółć gęślą jaźń"]
    for wrong in ("utf-9", "rot13"):
        with pytest.raises(UserError, match=rf"data.encoding={wrong}: unknown encoding"):
            read(path, encoding=wrong)
    with pytest.raises(
        UserError, match=r"not ASCII text .byte 0xbf in line 1.*data.encoding=latin-1"
    ):
        read(path, encoding="ascii")
    mixed = write(tmp_path / "b.txt", "café\n".encode() * 9 + b"caf\xe9\n")
    with pytest.raises(UserError, match=r"not UTF-8 text .byte 0xe9 in line 10"):
        read(mixed)
    cut = write(tmp_path / "c.txt", "café café".encode()[:-1])
    assert read(cut) == (["café caf"], ["1 .txt file", f"{cut}: cut off within its last character"])

    for end, documents in {
        "“".encode()[:2]: ["fox"],  # the same, with no other character that is not ASCII
        "“".encode()[:1]: ["foxâ"],  # or an 8-bit one
    }.items():
        assert read(write(tmp_path / "d.txt", b"fox" + end))[0] == documents


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_line_ends_and_marks_are_the_same_in_any_chunk(size: int, monkeypatch) -> None:
    monkeypatch.setattr(decode, "CHUNK", size)
    content = "\ufeffone\r\ntwo\rthré\r\n\r\n\ufefffour\n\ufeff".encode()
    notes: list[str] = []
    text = "".join(decode.read_text(io.BytesIO(content), "a", None, notes.append))
    assert text == "one\ntwo\nthré\n\nfour\n" and not notes
    latin = "one é\r\ntwo".encode("latin-1")
    assert "".join(decode.read_text(io.BytesIO(latin), "a", None, notes.append)) == "one é\ntwo"


def test_a_line_may_be_long_where_lines_do_not_matter(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(decode, "LONGEST_LINE", 50_000)
    long = write(tmp_path / "a.txt", "word " * 500_000)
    assert read(long)[0] == [("word " * 500_000).strip()]
    with pytest.raises(UserError, match="line 1 is longer than 50,000 characters"):
        read(long, document_boundary="line")


@pytest.mark.parametrize(
    "kind", ["line.txt", "a.csv", "a.jsonl", "list.json", "a.html", "a.txt.gz", "a.zip"]
)
def test_reading_takes_little_memory_whatever_the_length(tmp_path: Path, kind: str) -> None:
    """16 MB of text, in one line where the format allows, in less than 14 MB of memory."""
    text = "Once there was a fox, and it was glad of the rain. " * 20
    rows = {
        ".csv": f'"{text}"\n',
        ".jsonl": json.dumps({"text": text}) + "\n",
        ".json": json.dumps(text) + ", ",
    }
    path = tmp_path / kind
    piece = rows.get(path.suffix, text) * 1000
    start = {".csv": "text\n", ".json": "[", ".html": "<html><p>"}.get(path.suffix, "")
    opener = {".gz": gzip.open, ".zip": open_in_zip}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(start.encode())
        for _ in range(16):
            file.write(piece.encode())
        file.write(b'"end"]' if path.suffix == ".json" else b"")
    data, report = DataConfig(path=str(path)), ReadReport()
    tracemalloc.start()
    length = sum(
        len(chunk.text)
        for file in find_files("data.path", data.path, data, report)
        for chunk in read_documents(file, data, report)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length >= 16_000_000 and peak < 14_000_000


@contextlib.contextmanager
def open_in_zip(path: Path, mode: str) -> Iterator[IO[bytes]]:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.txt", "w") as file,
    ):
        yield file
