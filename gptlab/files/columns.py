"""Find the columns of labelled messages and of instructions in a table, by their names."""

from collections.abc import Iterable
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.utils.errors import UserError

# By data.task: the fields of a record, and the names of their columns by preference, in any case.
FIELDS = {
    "classification": {
        "text": "text message sms sentence content review body tweet comment v2".split(),
        "label": "label class category target sentiment v1".split(),
    },
    "instructions": {
        "instruction": "instruction prompt question query".split(),
        "input": "input context".split(),  # may be missing
        "output": "output response answer completion".split(),
    },
}


def find_columns(names: Iterable[str], data: DataConfig) -> dict[str, str]:
    """Find the column of each field of data.task; a field without one is left out."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.strip().casefold(), name)
    chosen = {"text": data.text_column, "label": data.label_column}
    columns = {}
    for field, known in FIELDS[data.task].items():
        wanted = [choice.casefold()] if (choice := chosen.get(field)) else known
        if match := next((folded[name] for name in wanted if name in folded), None):
            columns[field] = match
    return columns


def read_fields(row: Any, place: str, data: DataConfig) -> list[str]:
    """Return the texts of a row's fields; raise UserError for one that is missing or no text."""
    fields = FIELDS[data.task]
    row = row if isinstance(row, dict) else {}
    columns = find_columns(row, data)
    if missing := [field for field in fields if field not in columns and field != "input"]:
        hint = "; name them with data.text_column and data.label_column"
        raise UserError(
            f"{place} must have the texts {', '.join(fields)}, but has no "
            f"{' and no '.join(missing)} among: {', '.join(map(str, row)):.500}"
            f"{hint if data.task == 'classification' else ''}"
        )
    values = []
    for field in fields:
        value = row[columns[field]] if field in columns else None
        if value is None and field == "input":
            value = ""
        elif field == "label" and isinstance(value, int | float):
            value = str(value)
        elif value is None:
            raise UserError(f"{place}: '{columns[field]}' is null, a missing {field}")
        elif not isinstance(value, str):
            raise UserError(f"{place}: '{columns[field]}' is {type(value).__name__}, not text")
        values.append(value)
    return values
