"""Build a corpus from records: split them, tokenize them, and store a label or prompt length."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import SplitWriter, write_corpus_files
from gptlab.data.mojibake import repair_mojibake
from gptlab.data.prompt_templates import PROMPT_TEMPLATES
from gptlab.data.records import Message, Record, RecordSource
from gptlab.data.splits import (
    DEFAULT_SPLIT,
    NOTHING_HELD_OUT,
    normalize_record,
    split_records,
)
from gptlab.data.tokenizer import Tokenizer
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import resolve_choice


def build_record_corpus(
    folder: Path,
    source: RecordSource,
    data: DataConfig,
    train_tokenizer: Callable[[Iterable[str]], Tokenizer],
    seed: int,
    meta: dict[str, Any],
) -> None:
    """Write token files, labels or prompt lengths, and metadata. Raises UserError."""
    records = source.read()[: data.max_samples]
    damage = sum(repair_mojibake(value)[1] for record in records for value in vars(record).values())
    if data.repair_encoding:
        records = [
            type(record)(*(repair_mojibake(value)[0] for value in vars(record).values()))
            for record in records
        ]
    classes = sorted({record.label for record in records if isinstance(record, Message)})
    if data.task == "classification" and len(classes) < 2:
        problem = f"all have the class '{classes[0]}'" if classes else "none has a class"
        raise UserError(
            f"of {plural(len(records), 'record')} {problem}; at least two classes are needed"
        )
    share = data.split or DEFAULT_SPLIT
    splits, description = split_records(records, replace(data, split=share), seed)
    description += "" if data.split else NOTHING_HELD_OUT
    check_split_classes(records, splits, classes)
    template = resolve_choice("data.template", data.template, PROMPT_TEMPLATES)
    tokenizer = train_tokenizer(text for r in records for text in prompt_and_response(r, template))
    writers = {}
    for name, split in splits.items():
        writers[name] = writer = SplitWriter(folder, name, tokenizer)
        for record in split:
            prompt, response = prompt_and_response(record, template)
            ids = tokenizer.encode(prompt)
            if isinstance(record, Message):
                writer.labels.append(classes.index(record.label))
            else:
                writer.prompt_lengths.append(len(ids))
            tokens = np.array([*ids, *tokenizer.encode(response), tokenizer.eot])
            writer.add(tokens, len((prompt + response).encode()))
    if data.task == "instructions" and "test" in splits:
        rows = [vars(record) for record in splits["test"]]
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (folder / "test.json").write_text(text, encoding="utf-8", newline="\n")
    meta = meta | {
        "classes": classes or None,
        "class_counts": {name: Counter(r.label for r in s) for name, s in splits.items()},
        "split_rule": description,
        "mojibake": damage,
        "repaired": data.repair_encoding,
        "duplicates_across_splits": count_duplicate_records(splits),
        "best_possible": None,
        "read": source.report.lines(),
    }
    write_corpus_files(folder, writers, tokenizer, meta)


def count_duplicate_records(splits: dict[str, list[Record]]) -> int:
    """Count the held-out records with the same text as a training record."""
    training = set(map(normalize_record, splits["train"]))
    held_out = (record for name, split in splits.items() if name != "train" for record in split)
    return sum(normalize_record(record) in training for record in held_out)


def check_split_classes(
    records: list[Record], splits: dict[str, list[Record]], classes: list[str]
) -> None:
    """Raise UserError if training or validation has no record, or none of a class."""
    for name in ("train", "valid"):
        required: set[str | None] = {*classes} or {None}
        if {record.label for record in splits[name]} >= required:
            continue
        if not classes:
            raise UserError(
                f"{plural(len(records), 'record')}: too few, or too similar, for a {name} split; "
                "add records or raise data.split"
            )
        counts = Counter(record.label for record in records)
        rarest, count = min(counts.items(), key=lambda item: item[1])
        raise UserError(
            f"of {len(classes):,} classes '{rarest:.40}' has the fewest records, {count:,}: too "
            f"few for a {name} split with every class. If it is a heading or a text, not a class, "
            "correct the file; otherwise add records, or set data.balance_classes=false"
        )


def prompt_and_response(record: Record, template: Callable[..., str]) -> tuple[str, str]:
    """Return the prompt of a record and the response to generate."""
    if isinstance(record, Message):
        return record.text, ""
    return template(record.instruction, record.input), record.output
