"""Read documents from files: .txt, .jsonl, .json, .parquet, and gzipped .txt and .jsonl.

Documents come in chunks, so that a book of any length is read in bounded memory.
"""

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptlab.config.schema import DataConfig
from gptlab.data.tokenizer import END_OF_TEXT
from gptlab.utils.errors import UserError, did_you_mean


class TextChunk(NamedTuple):
    """A part of a document, or all of it."""

    text: str
    ends_document: bool


SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".json", ".parquet")
CHUNK = 1 << 20  # characters to read at once; a TextChunk has about as many at most
SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST_LINE = 10_000_000  # characters


def find_files(key: str, paths: Any, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """List the files of a path, a list of paths, or a folder; raises UserError if none."""
    if not isinstance(paths, str | list) or not paths:
        raise UserError(f"{key}={paths}: must be a file, a list of files, or a folder")
    names = [paths] if isinstance(paths, str) else paths
    try:
        return [path for name in names for path in existing_files(key, str(name), suffixes)]
    except (RuntimeError, OSError) as error:  # unknown home folder, name too long, link loop
        raise UserError(f"{key}={paths!s:.200}: {str(error).splitlines()[0]:.200}") from None


def existing_files(key: str, name: str, suffixes: tuple[str, ...]) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        suggestion = did_you_mean(path.name, siblings)
        missing = [part for part in name.split(",") if not Path(part).expanduser().exists()]
        if 0 < len(missing) < len(name.split(",")):
            suggestion = f"; in this list, {' and '.join(missing)} does not exist"
        raise UserError(f"{key}={name}: no such file or folder{suggestion}")
    files = sorted(p for p in path.rglob("*") if p.name.endswith(suffixes) and p.is_file())
    if not files:
        raise UserError(f"{key}={name}: no text in this folder (looked for {', '.join(suffixes)})")
    return files


def read_documents(path: Path, config: DataConfig) -> Iterator[TextChunk]:
    """Read the documents of one file; raises UserError, with file and line, if it is not text."""
    if path.name.endswith(".parquet"):
        return split_documents(read_parquet(path, config.text_column))
    if not path.name.endswith((".json", ".jsonl", ".jsonl.gz")):
        return read_text_file(path, config.document_boundary)
    rows = read_json(path) if path.name.endswith(".json") else read_jsonl(path)
    return split_documents(
        extract_text(row, place, path, config.text_column) for place, row in rows
    )


def split_documents(texts: Iterator[str]) -> Iterator[TextChunk]:
    """Split each row into one or several documents at its end-of-text marks."""
    for text in texts:
        text = SURROGATE.sub("\ufffd", text)  # JSON can hold half a character, UTF-8 cannot
        for document in text.split(END_OF_TEXT):
            yield TextChunk(document, True)


def read_chunks(path: Path, longest_line: float = LONGEST_LINE) -> Iterator[str]:
    """Read a file, CHUNK characters at a time, with every line end as \\n."""
    lines, line_length = 1, 0  # the number of the last line, and its characters so far
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline=None) as file:
            while chunk := file.read(CHUNK):
                if "\0" in chunk:
                    raise UserError(f"{path}: a binary file, not text (NUL near line {lines})")
                line_end, _, _ = chunk.partition("\n")
                line_length += len(line_end)
                if line_length > longest_line:
                    raise UserError(
                        f"{path}: line {lines} is longer than {LONGEST_LINE:,} characters; "
                        "if it is text, break it into lines"
                    )
                if "\n" in chunk:
                    line_length = len(chunk) - chunk.rindex("\n") - 1
                lines += chunk.count("\n")
                yield chunk
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}: not UTF-8 text (byte 0x{byte:02x} after line {lines}); "
            "save it as UTF-8, for instance with `iconv -t utf-8`"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(
            f"{path}: broken gzip file (after line {lines}); download it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_text_file(path: Path, documents: str) -> Iterator[TextChunk]:
    """Read a text file's documents: by end-of-text mark, by line, or the file as one."""
    if documents == "line":
        for line in read_lines(path):
            yield TextChunk(line, True)
        return
    rest = ""
    for chunk in read_chunks(path):
        rest += chunk
        if documents != "file":
            *complete, rest = rest.split(END_OF_TEXT)
            for document in complete:
                yield TextChunk(document, True)
        while len(rest) > 2 * CHUNK:
            cut = find_cut(rest)
            yield TextChunk(rest[:cut], False)
            rest = rest[cut:]
    yield TextChunk(rest, True)


def find_cut(text: str) -> int:
    """Find a position after CHUNK characters where a cut changes no token.

    Before a line without a blank line above it; failing that, before any line or word.
    """
    for pattern in (r"(?<=\S\n)(?=\S)", r"(?<=\n)", r"(?<=\S)(?=\s\S)"):
        if match := re.compile(pattern).search(text, CHUNK, 2 * CHUNK):
            return match.start()
    return CHUNK


def read_lines(path: Path) -> Iterator[str]:
    rest = ""
    for chunk in read_chunks(path):
        *complete, rest = (rest + chunk).split("\n")
        yield from complete
    yield rest


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Read (place, value) of each line, where place is for errors: "line 3"."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is not JSON ({error})") from None


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """Read (place, value) of each row of a JSON list, where place is for errors: "row 3"."""
    try:
        rows = json.loads("".join(read_chunks(path, longest_line=math.inf)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: must be a list of rows, not {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def extract_text(row: Any, place: str, path: Path, column: str | None) -> str:
    """Get the text of a row, which is a string or an object with a text column."""
    if isinstance(row, str):
        return row
    name = column or "text"
    if not isinstance(row, dict) or name not in row:
        columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(
            f"{path}: {place} has no column '{name}'; set data.text_column to one of: {columns}"
        )
    if not isinstance(row[name], str):
        raise UserError(f"{path}: {place}: '{name}' is {type(row[name]).__name__}, not text")
    return row[name]


def read_parquet(path: Path, column: str | None) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        name, names = column or "text", file.schema_arrow.names
        columns = [name] if name in names else names  # all of them, for the error message
        batches = file.iter_batches(batch_size=1024, columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield extract_text(row, f"row {number}", path, column)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file ({reason})") from None


# UTF-8 that was decoded as Windows-1252: each byte by the character it became. Windows-1252 leaves
# five bytes undefined, which decode to control characters.
CP1252_BYTES = {
    bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b): b
    for b in range(128, 256)
}
MOJIBAKE_RUN = re.compile(f"[{re.escape(''.join(CP1252_BYTES))}]{{2,}}")


def repair_mojibake(text: str) -> tuple[str, int]:
    """Repair UTF-8 that was decoded as Windows-1252 (â€œ to “); return the text and the count."""
    if not ("â" in text or "Ã" in text or "Â" in text):
        return text, 0
    count = 0

    def repair(match: re.Match[str]) -> str:
        nonlocal count
        damaged = match[0]
        try:
            repaired = bytes(CP1252_BYTES[character] for character in damaged).decode()
        except UnicodeDecodeError:
            # A closing quotation mark often lost its last byte, undefined in Windows-1252.
            repaired = "”" if damaged == "â€" else damaged
        count += repaired != damaged
        return repaired

    return MOJIBAKE_RUN.sub(repair, text), count
