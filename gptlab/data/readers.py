"""Files to documents: .txt, .jsonl, .json, .parquet, the text ones gzipped too.

Documents come as pieces, so that a book of any length passes through in bounded memory: a piece
is `(text, whole)` where `whole` says that the document ends with it.
"""

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.data.tokenizer import SEPARATOR
from gptlab.utils.errors import UserError, did_you_mean

Piece = tuple[str, bool]

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".json", ".parquet")
CHUNK = 1 << 20  # characters read at once, and about the longest piece
SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST_LINE = 10_000_000  # characters


def find_files(key: str, given: Any, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files that a path, a list of paths or a folder means; raises UserError if none."""
    if not isinstance(given, str | list) or not given:
        raise UserError(f"{key}={given}: must be a file, a list of files, or a folder")
    try:
        return list(existing_files(key, given, suffixes))
    except (RuntimeError, OSError) as error:  # no such user's home, a name too long, a loop
        raise UserError(f"{key}={given!s:.200}: {str(error).splitlines()[0]:.200}") from None


def existing_files(key: str, given: str | list[str], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for name in [given] if isinstance(given, str) else given:
        path = Path(str(name)).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.name.endswith(suffixes) and p.is_file())
            if not found:
                raise UserError(
                    f"{key}={name}: no text in this folder (looked for {', '.join(suffixes)})"
                )
            yield from found
        elif path.is_file():
            yield path
        else:
            near = did_you_mean(path.name, list_names(path.parent))
            raise UserError(f"{key}={name}: there is no such file or folder{near}")


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def read_documents(path: Path, config: DataConfig) -> Iterator[Piece]:
    """The documents of one file; raises UserError, with file and place, for what is not text."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = read_jsonl(path)
    elif path.name.endswith(".json"):
        rows = read_json(path)
    elif path.name.endswith(".parquet"):
        yield from documents_of(read_parquet(path, config.text_column))
        return
    else:
        yield from read_text(path, config.documents)
        return
    yield from documents_of(
        extract_text(row, place, path, config.text_column) for place, row in rows
    )


def documents_of(texts: Iterator[str]) -> Iterator[Piece]:
    """A row is a document, or several where it holds the separator."""
    for text in texts:
        text = SURROGATE.sub("\ufffd", text)  # JSON can hold half a character; UTF-8 cannot
        for document in text.split(SEPARATOR):
            yield document, True


def read_chunks(path: Path, longest_line: float = LONGEST_LINE) -> Iterator[str]:
    """The text of a file, CHUNK characters at a time, every line end as \\n."""
    lines = 1
    since_line_end = 0
    try:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline=None) as file:
            while chunk := file.read(CHUNK):
                if "\0" in chunk:
                    raise UserError(f"{path}: a binary file, not text (a NUL near line {lines})")
                first, _, rest = chunk.partition("\n")
                since_line_end += len(first)
                if rest or chunk.endswith("\n"):
                    since_line_end = len(chunk) - chunk.rindex("\n") - 1
                if since_line_end > longest_line:
                    raise UserError(
                        f"{path}: line {lines + chunk.count(chr(10))} is longer than "
                        f"{LONGEST_LINE:,} characters; is it text? Break it into lines"
                    )
                lines += chunk.count("\n")
                yield chunk
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}: not UTF-8 text (byte 0x{byte:02x} after line {lines}); "
            "save it as UTF-8, for instance with `iconv -t utf-8`"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: broken gzip file (after line {lines}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path, documents: str) -> Iterator[Piece]:
    """A text file's documents: by separator, by line, or the file as one."""
    if documents == "line":
        for line in read_lines(path):
            yield line, True
        return
    rest = ""
    for chunk in read_chunks(path):
        rest += chunk
        if documents != "file":
            *whole, rest = rest.split(SEPARATOR)
            for document in whole:
                yield document, True
        while len(rest) > 2 * CHUNK:
            cut = find_cut(rest)
            yield rest[:cut], False
            rest = rest[cut:]
    yield rest, True


def find_cut(text: str) -> int:
    """A place in the second half of a piece where cutting changes no token: before a line that
    follows another without a blank one between; without such a place, any line or word."""
    for pattern in (r"(?<=\S\n)(?=\S)", r"(?<=\n)", r"(?<=\S)(?=\s\S)"):
        if match := re.compile(pattern).search(text, CHUNK, 2 * CHUNK):
            return match.start()
    return CHUNK


def read_lines(path: Path) -> Iterator[str]:
    rest = ""
    for chunk in read_chunks(path):
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
    yield rest


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is not JSON ({error})") from None


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads("".join(read_chunks(path, longest_line=math.inf)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: must hold a list of rows, not {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def extract_text(row: Any, place: str, path: Path, column: str | None) -> str:
    """The text of a row, which is a string or an object with a text column."""
    if isinstance(row, str):
        return row
    name = column or "text"
    if not isinstance(row, dict) or name not in row:
        there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(no_column(path, place, name, there))
    if not isinstance(row[name], str):
        raise UserError(f"{path}: {place}: '{name}' is not text but {type(row[name]).__name__}")
    return row[name]


def no_column(path: Path, place: str, name: str, there: str) -> str:
    return f"{path}: {place} has no column '{name}'; there are: {there} (set data.text_column=)"


def read_parquet(path: Path, column: str | None) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    name = column or "text"
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if name not in file.schema_arrow.names:
            raise UserError(no_column(path, "the file", name, ", ".join(file.schema_arrow.names)))
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[name]):
            for text in batch.column(0).to_pylist():
                row += 1
                if not isinstance(text, str):
                    raise UserError(f"{path}: row {row}: '{name}' is not text but {text!r:.40}")
                yield text
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a parquet file that can be read ({reason})") from None


# UTF-8 that was read as Windows-1252: its bytes, each shown as one character.
CP1252_BYTES = {bytes([b]).decode("cp1252", "replace"): b for b in range(128, 256)}
CP1252_BYTES = {c: b for c, b in CP1252_BYTES.items() if c != "\ufffd"} | {
    chr(b): b for b in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
MOJIBAKE_RUN = re.compile(f"[{re.escape(''.join(CP1252_BYTES))}]{{2,}}")


def repair_mojibake(text: str) -> tuple[str, int]:
    """The text with UTF-8 that was read as Windows-1252 turned back (â€œ to “), and how often."""
    if not ("â" in text or "Ã" in text or "Â" in text):
        return text, 0
    count = 0

    def mend(match: re.Match[str]) -> str:
        nonlocal count
        run = match[0]
        try:
            mended = bytes(CP1252_BYTES[character] for character in run).decode()
        except UnicodeDecodeError:
            # A closing quotation mark often lost its last byte, which Windows-1252 does not have.
            mended = run.replace("â€", "”") if run.endswith("â€") and len(run) == 2 else run
        count += mended != run
        return mended

    return MOJIBAKE_RUN.sub(mend, text), count
