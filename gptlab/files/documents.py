"""Read documents from files of any readable format, in chunks and in bounded memory."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptlab.config.schema import DataConfig
from gptlab.files.decode import CHUNK
from gptlab.files.formats import TABLES
from gptlab.files.html_text import strip_tags
from gptlab.files.report import ReadReport
from gptlab.files.streams import FoundFile, OpenFile, explain_read_errors, open_files
from gptlab.files.tables import read_rows
from gptlab.utils.errors import UserError

END_OF_TEXT = "<|endoftext|>"
SURROGATE = re.compile("[\ud800-\udfff]")


class TextChunk(NamedTuple):
    """A part of a document, or all of it."""

    text: str
    ends_document: bool


def read_documents(found: FoundFile, data: DataConfig, report: ReadReport) -> Iterator[TextChunk]:
    """Read the documents of a file or archive; raises UserError, with file and line."""
    with explain_read_errors(found.path):
        for file in open_files(found, data, report):
            if file.format in TABLES:
                yield from split_documents(read_text_column(file))
            elif file.format == "html":
                yield from text_documents(strip_tags(file.text()), "file")
            elif data.document_boundary == "line":
                for line in file.lines():
                    yield TextChunk(line, True)
            else:
                yield from text_documents(file.text(), data.document_boundary)


def split_documents(texts: Iterator[str]) -> Iterator[TextChunk]:
    """Split each row into one or several documents at its end-of-text marks."""
    for text in texts:
        text = SURROGATE.sub("\ufffd", text)  # JSON can hold half a character, UTF-8 cannot
        for document in text.split(END_OF_TEXT):
            yield TextChunk(document, True)


def text_documents(chunks: Iterator[str], boundary: str) -> Iterator[TextChunk]:
    """Make documents from a file's text: by end-of-text mark, or the file as one."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        if boundary != "file":
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


def read_text_column(file: OpenFile) -> Iterator[str]:
    """Yield the text of each row, and report the name of its column."""
    wanted = file.data.text_column or "text"
    for number, (place, row) in enumerate(read_rows(file, {wanted.casefold()})):
        text = extract_text(row, f"{file.name}: {place}", wanted)
        if number == 0 and isinstance(row, dict):
            file.report.columns[find_text_column(row, wanted) or wanted] = None
        yield text


def extract_text(row: Any, place: str, column: str | None) -> str:
    """Get the text of a row, which is a string or an object with a text column."""
    if isinstance(row, str):
        return row
    wanted = column or "text"
    name = find_text_column(row, wanted) if isinstance(row, dict) else None
    if name is None:
        columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(
            f"{place} has no column '{wanted}'; set data.text_column to one of: {columns:.500}"
        )
    if row[name] is None:
        raise UserError(f"{place}: '{name}' is null, a missing text")
    if not isinstance(row[name], str):
        raise UserError(f"{place}: '{name}' is {type(row[name]).__name__}, not text")
    return row[name]


def find_text_column(row: dict[str, Any], wanted: str) -> str | None:
    """Return the wanted column as the row spells it, or the only column of a row."""
    if wanted in row:
        return wanted
    if wanted == "text" and len(row) == 1:
        return next(iter(row))
    return next((name for name in row if name.casefold() == wanted.casefold()), None)
