"""From records to a corpus like any other: dealt to splits, tokenised, written.

Beside each document stands one number (`Corpus.marks`): the message's class, or where the response
begins.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config.schema import DataConfig
from gptlab.data import readers
from gptlab.data.corpus import SplitWriter, write_corpus_files
from gptlab.data.prompt_templates import TEMPLATES
from gptlab.data.records import Message, Record, RecordSource
from gptlab.data.tokenizer import Tokenizer
from gptlab.utils.errors import UserError, resolve_choice


def normalize_record(record: Record) -> str:
    """What makes two records the same to a model that learns by heart: case and blanks aside, and
    of a message long numbers, for the same advertisement comes with many telephone numbers."""
    text = " ".join(record.content.casefold().split())
    return re.sub(r"\d{4,}", "0000", text) if isinstance(record, Message) else text


def split_records(
    records: list[Record], data: DataConfig, seed: int
) -> tuple[dict[str, list], str]:
    """The records of each split, and in words how it was done.

    Equal texts go to one split, together; of each class the same shares. The order is drawn by
    seed and content, so it does not depend on the file's. Texts of several classes are left out.
    """
    labels: dict[str, set] = defaultdict(set)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        text = normalize_record(record)
        groups[text].append(record)
        labels[text].add(label_of(record))
    torn = [text for text in groups if len(labels[text]) > 1]
    contrary = sum(len(groups.pop(text)) for text in torn)
    by_class: dict[Any, list[list[Record]]] = defaultdict(list)
    for text in sorted(groups, key=lambda text: shuffle_key(seed, text)):
        by_class[next(iter(labels[text]))].append(groups[text])
    counts = {label: sum(map(len, group)) for label, group in by_class.items()}
    most = min(counts.values()) if counts and data.balance else max(counts.values(), default=0)
    splits: dict[str, list[Record]] = {"train": [], "valid": [], "test": []}
    unbalanced = 0
    for label, groups_of_class in by_class.items():
        wanted = min(most, counts[label])
        left = {"test": round(wanted * data.test_split), "valid": round(wanted * data.split)}
        left["train"] = wanted - sum(left.values())
        unbalanced += counts[label] - wanted
        for group in groups_of_class:
            # Where the group is larger than a share, to the largest, lest it be all that is tested.
            fits = [name for name in left if len(group) <= left[name]] or [max(left, key=left.get)]
            name, taken = fits[0], group[: left[fits[0]]]
            splits[name] += taken
            left[name] -= len(taken)
    words = f"{data.split:g} to validate, {data.test_split:g} to test, equal texts together"
    words += f"; {unbalanced:,} left out to balance the classes" if unbalanced else ""
    words += f"; {contrary:,} left out whose equal texts are of several classes" if contrary else ""
    return {name: split for name, split in splits.items() if split or name != "test"}, words


def label_of(record: Record) -> str | None:
    return record.label if isinstance(record, Message) else None


def repair_record(record: Record) -> Record:
    return type(record)(*(readers.repair_mojibake(value)[0] for value in vars(record).values()))


def shuffle_key(seed: int, text: str) -> bytes:
    return blake2b(text.encode(), key=seed.to_bytes(8, "little"), digest_size=8).digest()


def build_record_corpus(
    folder: Path,
    source: RecordSource,
    data: DataConfig,
    vocabulary: Callable[[Iterable[str]], Tokenizer],
    seed: int,
    meta: dict[str, Any],
) -> None:
    """Writes the corpus of these records into the folder. Raises UserError."""
    records = source.read()[: data.max_samples]
    damage = sum(
        readers.repair_mojibake(value)[1] for record in records for value in vars(record).values()
    )
    if data.repair_encoding:
        records = [repair_record(record) for record in records]
    classes = sorted({r.label for r in records if isinstance(r, Message)})
    if data.task == "classification" and len(classes) < 2:
        there = f"all of class '{classes[0]}'" if classes else "none"
        raise UserError(f"of {len(records):,} records {there}; at least two classes are needed")
    splits, words = split_records(records, data, seed)
    check_enough(records, splits, classes)
    template = resolve_choice("data.template", data.template, TEMPLATES)
    tokenizer = vocabulary(text for r in records for text in prompt_and_target(r, template))
    writers = {}
    for name, split in splits.items():
        writers[name] = writer = SplitWriter(folder, name, tokenizer)
        for record in split:
            prompt, rest = prompt_and_target(record, template)
            ids = tokenizer.encode(prompt)
            known = isinstance(record, Message)
            writer.marks.append(classes.index(record.label) if known else len(ids))
            tokens = np.array([*ids, *tokenizer.encode(rest), tokenizer.eot])
            writer.add(tokens, len((prompt + rest).encode()), [])
    if data.task == "instructions" and "test" in splits:
        asked = [vars(record) for record in splits["test"]]
        (folder / "test.json").write_text(json.dumps(asked, ensure_ascii=False, indent=1))
    shown = {normalize_record(record) for record in splits["train"]}
    held = [record for name, split in splits.items() if name != "train" for record in split]
    meta |= {
        "classes": classes or None,
        "class_counts": {n: Counter(label_of(r) for r in s) for n, s in splits.items()},
        "split_rule": words,
        "mojibake": damage,
        "repaired": data.repair_encoding,
        "duplicates_across_splits": sum(normalize_record(record) in shown for record in held),
        "best_possible": None,
    }
    write_corpus_files(folder, writers, tokenizer, meta)


def check_enough(records: list[Record], splits: dict[str, list], classes: list[str]) -> None:
    """Raises UserError where a split that is needed has nothing, or nothing of a class."""
    for name in ("train", "valid"):
        there = {label_of(record) for record in splits[name]}
        if there >= set(classes or [None]):
            continue
        counts = Counter(map(label_of, records))
        rarest, count = min(counts.items(), key=lambda item: item[1])
        if not classes:
            raise UserError(f"{count:,} records are too few, or too alike, for a {name} split")
        raise UserError(
            f"of {len(classes):,} classes '{rarest:.40}' has the fewest records, {count:,}: too "
            f"few for a {name} split that has all; is it a class, and no heading, or text in the "
            "class's place? Otherwise give more, or data.balance=false to keep the others whole"
        )


def prompt_and_target(record: Record, template: Callable[..., str]) -> tuple[str, str]:
    """A record as a model reads it: what is given, and what it is to write."""
    if isinstance(record, Message):
        return record.text, ""
    return template(record.instruction, record.input), record.output
