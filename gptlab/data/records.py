"""Labeled examples to finetune on: messages with a class, instructions with a response.

To add a set of records, write a class with `identity` and `read` and enter it in
`RECORD_SOURCES`. Records are read into memory whole.
"""

import json
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from gptlab.config.schema import DataConfig
from gptlab.data.download import download_file
from gptlab.data.toy import instructions, spam
from gptlab.files.columns import FIELDS, find_columns, read_fields
from gptlab.files.documents import END_OF_TEXT, SURROGATE
from gptlab.files.find import file_stats, find_files
from gptlab.files.report import ReadReport
from gptlab.files.streams import FoundFile, OpenFile, explain_read_errors, open_files
from gptlab.files.tables import has_quoted_fields, read_delimited, read_rows
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import is_reference, resolve_choice


@dataclass(frozen=True)
class Message:
    """A text and the name of its class."""

    text: str
    label: str


@dataclass(frozen=True)
class Instruction:
    """An instruction, the input that it is about (or ""), and a good response."""

    instruction: str
    input: str
    output: str
    label: ClassVar[None] = None


Record = Message | Instruction
# By data.task.
RECORD_TYPES: dict[str, type[Record]] = {"classification": Message, "instructions": Instruction}


class RecordSource(ABC):
    """A set of records."""

    tasks: ClassVar[tuple[str, ...]]  # the values of data.task that it serves

    def __init__(self, config: DataConfig, corpus_root: Path):
        self.config = config
        self.record_type = RECORD_TYPES[config.task]
        self.download_folder = corpus_root / "raw"

    @cached_property
    def report(self) -> ReadReport:
        """What was read from files, filled while they are read."""
        return ReadReport()

    @abstractmethod
    def identity(self) -> Any:
        """Return plain values that change when the records change."""

    @abstractmethod
    def read(self) -> list[Record]:
        """Read all records; raises UserError if they cannot be read."""


class RecordFiles(RecordSource):
    """The records in the files of data.path."""

    tasks = ("classification", "instructions")

    @cached_property
    def files(self) -> list[FoundFile]:
        return find_files("data.path", self.config.path, self.config, self.report)

    def identity(self) -> Any:
        return file_stats(self.files, "records")

    def read(self) -> list[Record]:
        return [
            record
            for file in self.files
            for record in read_records(file, self.record_type, self.config, self.report)
        ]


class GeneratedRecords(RecordSource):
    """The first `data.max_samples` records of a generator in toy/."""

    generate: Callable[[int], tuple[str, ...]]

    def read(self) -> list[Record]:
        count = self.config.max_samples or 2000
        return [self.record_type(*self.generate(index)) for index in range(count)]

    def identity(self) -> Any:
        content = json.dumps([list(vars(record).values()) for record in self.read()])
        return blake2b(content.encode(), digest_size=16).hexdigest()


class ToySpam(GeneratedRecords):
    tasks = ("classification",)
    generate = staticmethod(spam.generate_message)


class ToyInstructions(GeneratedRecords):
    tasks = ("instructions",)
    generate = staticmethod(instructions.generate_instruction)


OFFLINE_HINT = "use a file: data.path=FILE, or work offline: data="


class SmsSpam(RecordSource):
    """The SMS Spam Collection (Almeida et al., 2011), downloaded once."""

    tasks = ("classification",)
    URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
    SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"

    def identity(self) -> Any:
        return self.SHA256

    def read(self) -> list[Record]:
        path = self.download_folder / "sms_spam_collection.zip"
        path = download_file(self.URL, self.SHA256, path, OFFLINE_HINT + "toy_spam")
        with zipfile.ZipFile(path) as archive:
            text = archive.read("SMSSpamCollection").decode()
        return parse_labeled_lines(text.replace("\r\n", "\n").split("\n"), str(path))


class BookInstructions(RecordSource):
    """1,100 instructions of a book (Raschka, 2024), downloaded once."""

    tasks = ("instructions",)
    # A fixed revision, so that the content cannot change.
    URL = (
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/"
        "b80e7804b30830a00eb55d2abc7ac25a07f36fdc/ch07/01_main-chapter-code/instruction-data.json"
    )

    def identity(self) -> Any:
        return self.URL

    def read(self) -> list[Record]:
        path = self.download_folder / "instructions.json"
        path = download_file(self.URL, is_json_list, path, OFFLINE_HINT + "toy_instructions")
        return read_records(FoundFile(path, "json"), Instruction, self.config, self.report)


def is_json_list(content: bytes) -> bool:
    """Detect login pages, which some networks send instead of the file."""
    try:
        return isinstance(json.loads(content), list)
    except ValueError:
        return False


# data.source, for data.task=classification and instructions. data.path replaces any of them.
RECORD_SOURCES: dict[str, type[RecordSource]] = {
    "toy_spam": ToySpam,
    "toy_instructions": ToyInstructions,
    "sms_spam": SmsSpam,
    "instructions": BookInstructions,
    "text": RecordFiles,
}
# Keys that only text sources read.
TEXT_ONLY_KEYS = "valid_path hub document_boundary max_tokens subset split_by".split()


def make_record_source(config: DataConfig, corpus_root: Path) -> RecordSource:
    """Make the source that the configuration selects."""
    defaults = DataConfig()
    for name in TEXT_ONLY_KEYS:
        if (value := getattr(config, name)) != getattr(defaults, name):
            raise UserError(
                f"data.{name}={value} has no effect with data.task={config.task}; "
                "data.split and data.test_split set the shares to hold out"
            )
    if config.path is not None:
        return RecordFiles(config, corpus_root)
    task, source = config.task, None
    if config.source in RECORD_SOURCES or is_reference(config.source):
        source = resolve_choice("data.source", config.source, RECORD_SOURCES, RecordSource)
    if source is None or task not in source.tasks:
        suited = [name for name, each in RECORD_SOURCES.items() if task in each.tasks]
        choices = " or ".join(f"data={name}" for name in suited if name != "text")
        raise UserError(
            f"data.task={task}: data.source={config.source} has no records for it; type {choices}, "
            "or name your own file: data.path=FILE"
        )
    return source(config, corpus_root)


def read_records(
    found: FoundFile, record_type: type[Record], data: DataConfig, report: ReadReport
) -> list[Record]:
    """Read the records of a table, or for messages also of lines `class<TAB>text`.

    Raises UserError, with file and line, for anything else.
    """
    records: list[Record] = []
    with explain_read_errors(found.path):
        for file in open_files(found, data, report):
            if file.format == "tsv" and record_type is Message:
                records += read_tab_separated(file)
            else:
                records += read_table(file, read_rows(file), record_type)
    return records


def read_tab_separated(file: OpenFile) -> list[Record]:
    """Read messages from a table with a heading, or from lines `class<TAB>text` without one."""
    quotes, lines = has_quoted_fields(file), file.lines()
    first = next((line for line in lines if line.strip()), "")
    names = [cell.strip('" ') for cell in first.split("\t")]
    if len(find_columns(names, file.data)) == len(FIELDS["classification"]):
        rows = read_delimited(file.name, first, lines, "\t", quotes)
        return read_table(file, rows, Message)
    return parse_labeled_lines(chain([first], lines), file.name)


def read_table(
    file: OpenFile, rows: Iterable[tuple[str, Any]], record_type: type[Record]
) -> list[Record]:
    """Make a record of each row; leave out messages without a text, and report how many."""
    records: list[Record] = []
    columns: dict[str, str] = {}
    for place, row in rows:
        records.append(record_from_row(record_type, row, f"{file.name}: {place}", file.data))
        columns = columns or find_columns(row, file.data)
    file.report.columns |= dict.fromkeys(columns.values())
    if record_type is Message and file.format in ("csv", "tsv"):
        count = len(records)
        records = [record for record in records if vars(record)["text"]]
        if count > len(records):
            file.report.note(
                file.name, f"left out {plural(count - len(records), 'row')} without a text"
            )
    return records


def parse_labeled_lines(lines: Iterable[str], path: str) -> list[Record]:
    messages: list[Record] = []
    for number, line in enumerate(lines, 1):
        label, tab, text = line.partition("\t")
        if line.strip() and not (tab and label.strip()):
            raise UserError(f"{path}: line {number} must be a class, a tab and a text")
        if text.strip():
            messages.append(Message(text.strip(), label_name(label.strip())))
    return messages


def record_from_row(record_type: type[Record], row: Any, place: str, data: DataConfig) -> Record:
    """Make a record from a row; an instruction's `input` may be missing."""
    texts = (SURROGATE.sub("\ufffd", text).strip() for text in read_fields(row, place, data))
    record = record_type(*(text.replace(END_OF_TEXT, " ") for text in texts))
    return Message(record.text, label_name(record.label)) if isinstance(record, Message) else record


def label_name(label: str) -> str:
    """Return the name of a class; whole numbers have no decimals: 1.0 is 1."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", label)
