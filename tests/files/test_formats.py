"""Every format is read as itself: never as raw text, whatever its name's case and compression."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gptlab.utils.errors import UserError
from tests.files.reading import read, write

pytestmark = pytest.mark.fast
TEXTS = ["Hi, there.\nIt rains;\tand “pours”.", 'She said "no".', "Bye."]
ROWS = [{"id": number, "text": text, "Other": None} for number, text in enumerate(TEXTS)]


def quoted(delimiter: str) -> bytes:
    lines = [["id", "TEXT"], *([str(row["id"]), row["text"]] for row in ROWS)]
    cells = ([f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in lines)
    return "\r\n".join(map(delimiter.join, cells)).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def arrow(writer: Callable) -> bytes:
    buffer, table = io.BytesIO(), pyarrow.Table.from_pylist(ROWS)
    with writer(buffer, table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return buffer.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CONTENT = {
    "a.csv": quoted(","),
    "semicolons.csv": quoted(";"),
    "a.tsv": quoted("\t"),
    "a.jsonl": LINES,
    "DATA.JSONL": LINES,
    "a.ndjson": LINES,
    "lines.json": LINES,
    "list.json": json.dumps(ROWS).encode(),
    "strings.json": json.dumps(TEXTS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "a.parquet": parquet(),
    "file.arrow": arrow(pyarrow.ipc.new_file),
    "stream.arrow": arrow(pyarrow.ipc.new_stream),
    "marks.txt": "<|endoftext|>".join(TEXTS).encode(),
    "list.txt": json.dumps(ROWS).encode(),  # the name says little: by content
    "lines.txt": LINES,
    "unnamed": LINES,
    "table.txt": quoted(","),
    "wrong.txt": parquet(),
}
COMPRESSIONS = {"": lambda b: b, ".gz": gzip.compress, ".bz2": bz2.compress, ".XZ": lzma.compress}


@pytest.mark.parametrize("name", CONTENT)
def test_tables_and_texts_are_read_by_name_and_content(tmp_path: Path, name: str) -> None:
    for suffix, compress in COMPRESSIONS.items():
        path = write(tmp_path / f"{name}{suffix}", compress(CONTENT[name]))
        documents, report = read(path)
        assert documents == TEXTS, (path.name, report)
    if name in ("list.txt", "lines.txt", "table.txt", "wrong.txt"):
        assert "by its content" in report[1]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_are_read_member_by_member(tmp_path: Path, kind: str) -> None:
    members = {
        "notes/b.txt": b"A note.",
        "c.parquet": parquet(),
        "d.csv.gz": gzip.compress(quoted(",")),
    }
    leftovers = {
        "__MACOSX/._b.txt": b"x",
        ".hidden.txt": b"x",
        "e.png": b"\x89PNG",
        "f.zip": b"PK\3\4",
    }
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | leftovers).items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as tar:
            for name, content in (members | leftovers).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    documents, report = read(path)
    assert documents == ["A note.", *TEXTS, *TEXTS]
    assert report[0].startswith("1 .txt file, 1 .parquet file, 1 .csv file (column")
    assert "2 hidden files" in report[0] and "1 PNG image" in report[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"damaged or cut off|not a readable"):
        read(path)


def test_a_page_is_stripped_to_its_text(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title>No</title><style>p {}</style></head><body>
    <h1>A   fox</h1><p>It&rsquo;s <b>glad</b> &amp;
    wet.<script>if (a<b) {}</script><ul><li>one<li>two</ul><pre>x  y</pre></body></html>"""
    for name in ("a.html", "B.HTM", "saved.txt"):
        documents, _ = read(write(tmp_path / name, page))
        assert documents == ["A fox\n\nIt’s glad & wet.\n\none\ntwo\n\nx  y"]
    assert read(tmp_path / "saved.txt", format="text")[0] == [page]
    source = "<p>" + "word " * 300_000 + "</p>"
    assert read(write(tmp_path / "c.html", source * 3))[0][0].split() == ["word"] * 900_000


REFUSED = {
    "a.pdf": (b"%PDF-1.7", "a PDF, not text; convert it"),
    "pdf.txt": (b"%PDF-1.7", "a PDF, not text; convert it"),
    "a.txt": (
        b"version https://git-lfs.github.com/spec/v1\noid",
        "a Git LFS pointer.*git lfs pull",
    ),
    "a.rtf": (b"{\\rtf1 hi", "an RTF document"),
    "a.xml": (b"<?xml version='1.0'?><a>b</a>", "an XML file.*data.format=html"),
    "a.csv": (b"<!doctype html><html><body>Please log in", "an HTML page.*login"),
    "a.bin": (bytes(range(256)) * 8, "a binary file"),
    "b.txt": (bytes(range(1, 256)) * 8, "a binary file"),
    "a.parquet": (b"nonsense", "not a readable parquet file"),
    "b.parquet": (b"PAR1 nonsense", "not a readable parquet file"),
    "a.arrow": (b"ARROW1 nonsense", "not a readable arrow file"),
    "a.zip": (b"PK\3\4 nonsense", "damaged or cut off"),
    "a.txt.gz": (gzip.compress(b"text" * 999)[:-9], "damaged or cut off"),
    "a.txt.bz2": (bz2.compress(b"text" * 999)[:-9], "damaged or cut off"),
    "a.txt.xz": (lzma.compress(b"text" * 999)[:-9], "damaged or cut off"),
    "quote.csv": (b'id,text\n1,"open\n2,b\n', "line .: not a table"),
    "commas.csv": (b"id,text\n1,Hi, there\n", "line 2 has 3 fields, but the heading 2; quote"),
    "columns.csv": (b"title,story\n1,b\n", "line 2 has no column 'text'.* one of: title, story"),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', "line 2: 'text' is null, a missing text"),
    "cut.json": (b'[{"text": "a"}, {"te', "row 2 is not JSON"),
    "open.json": (b'[{"text": "a"}', "ends within the list, after row 1"),
    "two.json": (b'["a"] ["b"]', "not JSON .after row 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("word/document.xml", "a Word document"),
        ("xl/a.xml", "an Excel"),
        ("META-INF/container.xml", "an EPUB"),
    ],
)
def test_documents_in_the_form_of_a_zip_file_are_named(
    tmp_path: Path, member: str, message: str
) -> None:
    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("[Content_Types].xml", "mimetype", member):
            archive.writestr(name, "x")
    with pytest.raises(UserError, match=message):
        read(path)


def test_text_that_may_be_something_else_is_announced(tmp_path: Path) -> None:
    table = write(tmp_path / "a.txt", "".join(f"{i}\tham\thello {i}\n" for i in range(20)))
    assert "looks like a table; data.format=tsv" in read(table)[1][1]
    markup = write(tmp_path / "b.txt", "<p>A <b>fox</b>.</p>\n" * 20)
    assert "looks like markup; data.format=html" in read(markup)[1][1]
    assert read(markup, format="html")[1] == ["1 .txt file"]
    for prose in ("Yes, no, and so on.\n" * 20, "It rained.\nIt was a fox < 3, > 2.\n" * 9):
        assert len(read(write(tmp_path / "c.txt", prose))[1]) == 1
