"""Read rows from tables: CSV, TSV, JSON, JSON Lines, Parquet, Arrow.

Rows come one at a time, as a dictionary by column or, in JSON, any other value; `place`, such as
"line 3", is for errors. To add a format, write a function and enter it in `READERS`.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any

from gptlab.files.decode import HEAD, LONGEST_LINE, guess_encoding
from gptlab.files.streams import OpenFile
from gptlab.utils.errors import UserError

Rows = Iterator[tuple[str, Any]]
BATCH_ROWS = 1024
SPACE = re.compile(r"\s*")


def read_rows(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    """Read (place, row) of each row. `columns`: read only these, if the table has one of them."""
    return READERS[file.format](file, columns)


def read_csv(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    """Read a table with a heading, separated by the character that is most frequent in it."""
    lines = file.lines()
    heading = next((line for line in lines if line.strip()), "")
    return read_delimited(file.name, heading, lines, max(",;\t|", key=heading.count))


def read_tsv(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    quotes, lines = has_quoted_fields(file), file.lines()
    heading = next((line for line in lines if line.strip()), "")
    return read_delimited(file.name, heading, lines, "\t", quotes)


def has_quoted_fields(file: OpenFile) -> bool:
    """Whether quotation marks enclose fields of a tab-separated file; often they are just text."""
    head = file.stream.peek(HEAD)[:HEAD]
    lines = head.decode(guess_encoding(head), errors="replace").splitlines(keepends=True)
    try:
        return len({len(row) for row in csv.reader(lines, delimiter="\t", strict=True) if row}) == 1
    except csv.Error as error:
        return len(head) == HEAD and "unexpected end" in str(error)


def read_delimited(
    name: str, heading: str, lines: Iterable[str], delimiter: str, quotes: bool = True
) -> Rows:
    """Read rows after a heading; `quotes`: a quoted field may have delimiters and line ends."""
    csv.field_size_limit(LONGEST_LINE)
    ended = (line + "\n" for line in chain([heading], lines))
    quoting: Any = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(ended, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        names = [cell.strip() for cell in next(reader)]
        for row in reader:
            if any(row[len(names) :]):
                raise UserError(
                    f"{name}: line {reader.line_num} has {len(row)} fields, but the heading "
                    f"{len(names)}; quote texts that contain {delimiter!r}"
                )
            if any(row):
                yield f"line {reader.line_num}", dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise UserError(f"{name}: line {reader.line_num}: not a table ({error})") from None


def read_jsonl(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    for number, line in enumerate(file.lines(), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file.name}: line {number} is not JSON ({error})") from None


def read_json(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    """Read the values of a list, or values that follow one another, as in JSON Lines."""
    decode = json.JSONDecoder().raw_decode
    buffer, number, state = "", 0, "start"  # then: value, comma, end; values: without a list
    for chunk in chain(file.text(), [None]):
        buffer, place = buffer + (chunk or ""), 0
        while True:
            place = SPACE.match(buffer, place).end()  # type: ignore[union-attr]
            if place == len(buffer):
                break
            character = buffer[place]
            if state == "start":
                state = "value" if character == "[" else "values"
                place += character == "["
            elif state in ("value", "comma") and character in "],"[: 1 + (state == "comma")]:
                state = "end" if character == "]" else "value"
                place += 1
            elif state in ("comma", "end"):
                raise UserError(f"{file.name}: not JSON (after row {number}: {character!r})")
            else:
                try:
                    value, place = decode(buffer, place)
                except (ValueError, RecursionError) as error:
                    if chunk is not None and len(buffer) - place <= LONGEST_LINE:
                        break  # the value may end in the next chunk
                    reason = str(error).partition(":")[0]
                    raise UserError(
                        f"{file.name}: row {number + 1} is not JSON ({reason})"
                    ) from None
                number, state = number + 1, "comma" if state == "value" else state
                yield f"row {number}", value
        buffer = buffer[place:]
    if state in ("value", "comma"):
        raise UserError(f"{file.name}: not JSON (ends within the list, after row {number})")


def read_parquet(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file.seekable())
        names = pick_columns(table.schema_arrow.names, columns)
        yield from batch_rows(table.iter_batches(batch_size=BATCH_ROWS, columns=names))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise damaged_table(file, error) from None


def read_arrow(file: OpenFile, columns: Collection[str] = ()) -> Rows:
    """Read Arrow's file format, also called Feather, or its stream format, as of `datasets`."""
    import pyarrow

    source = file.seekable()
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    try:
        if is_file:
            table = pyarrow.ipc.open_file(source)
            batches = map(table.get_batch, range(table.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(source))
        yield from batch_rows(checked_batches(batches, columns))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise damaged_table(file, error) from None


def checked_batches(batches: Iterable[Any], columns: Collection[str]) -> Iterator[Any]:
    for batch in batches:
        batch = batch.select(pick_columns(batch.schema.names, columns))
        batch.validate(full=True)  # a damaged offset would read outside of the file
        yield batch


def damaged_table(file: OpenFile, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{file.name}: not a readable {file.format} file ({reason})")


def batch_rows(batches: Iterable[Any]) -> Rows:
    number = 0
    for batch in batches:
        for start in range(0, len(batch), BATCH_ROWS):
            for row in batch.slice(start, BATCH_ROWS).to_pylist():
                number += 1
                yield f"row {number}", row


def pick_columns(names: list[str], wanted: Collection[str]) -> list[str]:
    """Return the wanted columns, in any case; all of them if there is none of these."""
    return [name for name in names if name.casefold() in wanted] or names


READERS: dict[str, Callable[[OpenFile, Collection[str]], Rows]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "json": read_json,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
