"""Decide how a file is read, by its name and the first bytes of its content.

To add a format, enter its suffixes in `SUFFIXES` and its reader in `tables.READERS`.
"""

import csv
import json
import re
from pathlib import PurePath

from gptlab.config.schema import DataConfig
from gptlab.files.decode import HEAD, guess_encoding
from gptlab.utils.errors import UserError

CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
PAGE = re.compile(r"\s*(<!--.*?-->\s*)*(<!doctype html|<html)", re.DOTALL)
TAG = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>", re.IGNORECASE)

# Suffixes in any case, also before .gz, .bz2 and .xz. Read as text: prose and source code.
SUFFIXES = {
    "text": ".txt .text .md .markdown .rst .log .tex .adoc .org .srt .vtt .c .cc .cpp .cs .css .cu "
    ".cfg .go .h .hpp .hs .ini .java .jl .js .jsx .kt .lua .m .php .pl .py .r .rb .rs .scala .sh "
    ".sql .swift .toml .ts .tsx .yaml .yml",
    "html": ".html .htm .xhtml",
    "csv": ".csv",
    "tsv": ".tsv .tab",
    "jsonl": ".jsonl .ndjson .jsonlines",
    "json": ".json",
    "parquet": ".parquet .pq",
    "arrow": ".arrow .feather",
    "zip": ".zip",
    "tar": ".tar .tgz .tbz2 .txz",
}
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
COMPRESSED = (".gz", ".bz2", ".xz")
TABLES = ("csv", "tsv", "jsonl", "json", "parquet", "arrow")
ARCHIVES = ("zip", "tar")
PROSE = (".txt", ".text", ".log")  # suffixes that people also give to tables and web pages

CONVERT = "convert it to plain text first, for instance with"
# What cannot be read: how it begins, what it is, what to do.
REFUSED = [
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (b"%PDF", "a PDF", f"{CONVERT} `pdftotext`"),
    (b"%!PS", "a PostScript file", f"{CONVERT} `ps2ascii`"),
    (b"{\\rtf", "an RTF document", f"{CONVERT} `pandoc -t plain`"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as plain text or .csv"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it with `zstd -d`"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"SQLite format 3", "a SQLite database", "export the table as .csv"),
    (b"\x89HDF", "an HDF5 file", "export its text as .csv or .parquet"),
    (b"\x93NUMPY", "a NumPy array", "export its text as .csv or .parquet"),
    (b"\x89PNG", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""),
    (b"\x7fELF", "a program", ""),
]
# Documents in the form of a zip file: how one of its names begins, what it is, what to do.
REFUSED_ZIPS = [
    ("word/", "a Word document", f"{CONVERT} `pandoc -t plain`"),
    ("xl/", "an Excel workbook", "save its sheet as .csv"),
    ("ppt/", "a PowerPoint document", "save it as plain text"),
    ("META-INF/container.xml", "an EPUB", f"{CONVERT} `pandoc -t plain`"),
    ("content.xml", "an OpenDocument file", "save it as plain text or .csv"),
]


class UnreadableFile(UserError):
    """A file that is not read; in a folder or an archive it is skipped and counted by `kind`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def refuse(name: str, what: str, advice: str = "") -> UnreadableFile:
    """Make the error for a file that is `what`, such as "a PDF"."""
    message = f"{name}: {what}, not text" + (f"; {advice}" if advice else "")
    return UnreadableFile(what.partition(" ")[2], message)


def suffix_of(name: str) -> str:
    """Return the suffix in lower case, without the one of a compression: `.csv` of `A.CSV.gz`."""
    path = PurePath(name)
    path = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return path.suffix.lower()


def detect_format(name: str, head: bytes, data: DataConfig, is_named: bool) -> str:
    """Return the format's name in SUFFIXES; raise UnreadableFile if the file is not read.

    `head`: the first HEAD bytes, uncompressed. Content decides where it is unmistakable, then the
    suffix; content again where the suffix says little. An unknown suffix is read only if the user
    named the file. Records (`data.task`) are read from tables only.
    """
    for magic, what, advice in REFUSED:
        if head.startswith(magic):
            raise refuse(name, what, advice)
    suffix = suffix_of(name)
    found = detect_binary_format(head) or data.format or FORMATS.get(suffix)
    if found in ("parquet", "arrow", *ARCHIVES):
        if head and detect_binary_format(head) is None:
            raise UnreadableFile(f"damaged {suffix}", f"{name}: not a readable {found} file")
        return found
    if not is_named and suffix and found is None:
        raise UnreadableFile(f"{suffix} file", f"{name}: unknown suffix")
    text = decode_head(name, head, data.encoding)
    if found is None or (data.format is None and trusts_content(suffix)):
        found = detect_text_format(name, text, data.text_column or "text")
    elif found in TABLES and is_page(text):
        raise refuse(name, "an HTML page", "perhaps a login or error page; download it again")
    if data.task == "text" or found in TABLES:
        return found
    if found == "text" and "\t" in text.lstrip().partition("\n")[0]:
        return "tsv"
    raise UnreadableFile(
        f"{found} file",
        f"{name}: line 1 must be a class, a tab and a text; or use .csv, .jsonl or .parquet",
    )


def trusts_content(suffix: str) -> bool:
    """Whether the content decides on the format, because the suffix says little."""
    return suffix in PROSE or suffix not in FORMATS


def detect_binary_format(head: bytes) -> str | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):  # a file, or a stream as of `datasets`
        return "arrow"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def decode_head(name: str, head: bytes, encoding: str | None) -> str:
    """Decode the first bytes, to look at them; raise UnreadableFile if they are not text."""
    encoding = encoding or guess_encoding(head)
    text = head.decode(encoding, errors="replace")
    controls = len(CONTROLS.findall(text)) if encoding != "utf-8" else 0
    if "\0" in text or controls > 0.02 * len(text):
        raise UnreadableFile("binary file", f"{name}: a binary file, not text")
    return text


def is_page(text: str) -> bool:
    return bool(PAGE.match(text[:2000].lower()))


def detect_text_format(name: str, text: str, text_column: str) -> str:
    """Detect web pages, JSON, JSON Lines, and tables whose heading names the text column."""
    if is_page(text):
        return "html"
    if text.lstrip().startswith("<?xml"):
        raise refuse(name, "an XML file", "extract its text, or strip its tags: data.format=html")
    return detect_table(text, text_column) or "text"


def detect_table(text: str, text_column: str) -> str | None:
    """Detect JSON, JSON Lines, and tables with a heading that has the text column."""
    lines = [line for line in text[: HEAD // 2].splitlines() if line.strip()]
    lines = lines[:20] if len(lines) > 1 else lines
    if not lines:
        return None
    if re.match(r'\[\s*(\{\s*"|"(?:[^"\\]|\\.)*"\s*[,\]])', text.lstrip()):
        return "json"
    if lines[0].lstrip().startswith('{"') and all(map(is_json_object, lines[:2])):
        return "jsonl"
    for name, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        try:
            rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            continue
        heading = [cell.strip().casefold() for cell in rows[0]]
        same = sum(len(row) == len(heading) for row in rows) >= max(2, len(rows) - 1)
        if len(heading) > 1 and text_column.casefold() in heading and same:
            return name
    return None


def is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def describe_suspicion(text: str) -> str:
    """Describe what text may be instead: markup, or a table without a known column."""
    tags = TAG.findall(text)
    if len(tags) >= 5 and sum(map(len, tags)) > 0.05 * len(text):
        return "looks like markup; data.format=html strips the tags"
    lines = [line for line in text[: HEAD // 2].splitlines() if line.strip()][:50]
    for name, delimiter, fields in (("tsv", "\t", 1), ("csv", ",", 2), ("csv", ";", 2)):
        counts = {line.count(delimiter) for line in lines[:-1]}
        if len(set(lines)) >= 10 and len(counts) == 1 and counts.pop() >= fields:
            return f"looks like a table; data.format={name} reads its text column"
    return ""


def check_encoding(encoding: str | None) -> None:
    """Raise UserError for an unknown `data.encoding`."""
    try:
        "a".encode(encoding or "utf-8")
    except LookupError:
        raise UserError(
            f"data.encoding={encoding}: unknown encoding; try utf-8, utf-16 or cp1252"
        ) from None
