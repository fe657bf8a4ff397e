"""Small sets of records to finetune on: messages with a class, instructions with a response.

They are read whole into memory; dealing.py makes a corpus of them.
"""

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.data import readers
from gptlab.data.download import download_file
from gptlab.data.tokenizer import SEPARATOR
from gptlab.data.toy import instructions, spam
from gptlab.utils.errors import UserError, resolve_choice


@dataclass(frozen=True)
class Message:
    """A text and the name of its class."""

    text: str
    label: str

    @property
    def content(self) -> str:
        return self.text


@dataclass(frozen=True)
class Instruction:
    """What is asked, of what, and a good response."""

    instruction: str
    input: str
    output: str

    @property
    def content(self) -> str:
        return f"{self.instruction}\n{self.input}"


Record = Message | Instruction


@dataclass
class RecordSource:
    """Where records come from: `identity` changes when they do; `read` raises UserError."""

    identity: Callable[[], Any]
    read: Callable[[], list[Record]]


# Settings of texts, which nothing reads of records.
TEXT_ONLY_KEYS = (
    "valid_path",
    "hub",
    "text_column",
    "documents",
    "max_tokens",
    "subset",
    "split_by",
)


def refuse_text_settings(data: DataConfig) -> None:
    """Raises UserError for a setting that would change nothing."""
    plain = DataConfig()
    for name in TEXT_ONLY_KEYS:
        if (value := getattr(data, name)) != getattr(plain, name):
            raise UserError(
                f"data.{name}={value}: is of texts; records are dealt to splits by data.split and "
                "data.test_split"
            )


SMS = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
SMS_SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"
# Of one revision: what stands there cannot change.
INSTRUCTIONS = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/"
    "b80e7804b30830a00eb55d2abc7ac25a07f36fdc/ch07/01_main-chapter-code/instruction-data.json"
)
TOY = 2000  # records of the embedded sets, where data.max_samples says nothing


def make_record_source(data: DataConfig, root: Path) -> RecordSource:
    """The records that the configuration names; `data.path` goes before `data.source`."""
    kind = Message if data.task == "classification" else Instruction
    refuse_text_settings(data)
    if data.path is not None:
        paths = readers.find_files("data.path", data.path, RECORD_SUFFIXES)
        stats = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        return RecordSource(
            lambda: stats, lambda: [r for path in paths for r in read_records(path, kind)]
        )
    count, raw = data.max_samples or TOY, root / "raw"
    table = {
        "toy_spam": (
            Message,
            lambda: RecordSource(
                lambda: toy_fingerprint(spam.write, count),
                lambda: [Message(*spam.write(number)) for number in range(count)],
            ),
        ),
        "toy_instructions": (
            Instruction,
            lambda: RecordSource(
                lambda: toy_fingerprint(instructions.write, count),
                lambda: [Instruction(*instructions.write(number)) for number in range(count)],
            ),
        ),
        "sms_spam": (Message, lambda: RecordSource(lambda: SMS_SHA256, lambda: read_sms(raw))),
        "instructions": (
            Instruction,
            lambda: RecordSource(
                lambda: INSTRUCTIONS, lambda: read_records(fetch_instructions(raw), Instruction)
            ),
        ),
    }
    of, make = resolve_choice("data.source", data.source, {**table, "text": (kind, None)})
    if make is None:
        raise UserError("data.path=null: name the file of your records")
    if of is not kind:
        raise UserError(f"data.source={data.source}: holds nothing for data.task={data.task}")
    return make()


def toy_fingerprint(write: Callable[[int], tuple[str, ...]], count: int) -> str:
    """Changes when one of the first `count` embedded records does."""
    content = json.dumps([write(number) for number in range(count)])
    return blake2b(content.encode(), digest_size=16).hexdigest()


LOCAL_WAY = "with a file of yours: data.path=FILE; offline: data="


def read_sms(raw: Path) -> list[Record]:
    """The official SMS Spam Collection (Almeida and others, 2011), fetched once."""
    path = download_file(SMS, SMS_SHA256, raw / "sms_spam_collection.zip", LOCAL_WAY + "toy_spam")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("SMSSpamCollection").decode()
    return parse_labelled_lines(text.replace("\r\n", "\n").split("\n"), str(path))


def fetch_instructions(raw: Path) -> Path:
    path = raw / "instructions.json"
    return download_file(INSTRUCTIONS, is_list, path, LOCAL_WAY + "toy_instructions")


def is_list(content: bytes) -> bool:
    """Whether this is a list in JSON, and not a page that some network shows instead."""
    try:
        return isinstance(json.loads(content), list)
    except ValueError:
        return False


RECORD_SUFFIXES = (".tsv", ".json", ".jsonl", ".jsonl.gz")


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """A file's records: .json and .jsonl objects, or for messages lines `class<TAB>text`.

    Raises UserError, with file and place, for what is none.
    """
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = list(readers.read_jsonl(path))
    elif path.name.endswith(".json"):
        rows = list(readers.read_json(path))
    elif kind is Message:
        return parse_labelled_lines(readers.read_lines(path), str(path))
    else:
        raise UserError(f"{path}: instructions are read from .json and .jsonl files")
    return [record_from_row(kind, row, f"{path}: {place}") for place, row in rows]


def parse_labelled_lines(lines: Iterable[str], path: str) -> list[Record]:
    made: list[Record] = []
    for number, line in enumerate(lines, 1):
        label, tab, text = line.partition("\t")
        if line.strip() and not (tab and label.strip()):
            raise UserError(f"{path}: line {number} is not a class, a tab and a text")
        if text.strip():
            made.append(Message(text.strip(), label.strip()))
    return made


def record_from_row(kind: type[Record], row: Any, place: str) -> Record:
    """A record of a JSON object; an instruction's `input` may be missing."""
    names = ("text", "label") if kind is Message else ("instruction", "input", "output")
    values = {"input": "", **row} if isinstance(row, dict) else {}
    if isinstance(values.get("label"), int | float):
        values["label"] = str(values["label"])
    if not all(isinstance(values.get(name), str) for name in names):
        there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{place} must have the texts {', '.join(names)}; there are: {there}")
    texts = (readers.SURROGATE.sub("\ufffd", values[name]).strip() for name in names)
    return kind(*(text.replace(SEPARATOR, " ") for text in texts))
