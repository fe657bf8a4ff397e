"""Decide which split each document or record belongs to, before anything is tokenized."""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from gptlab.config.schema import DataConfig
from gptlab.data.records import Message, Record
from gptlab.files.documents import TextChunk
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError
from gptlab.utils.hashing import splitmix64

DEFAULT_SPLIT = 0.1  # with data.split=0, if nothing else is held out
NOTHING_HELD_OUT = ", because data.split=0 would leave nothing to validate on"


@dataclass
class DocumentScan:
    """The statistics of one of the source's splits, from the first pass."""

    lengths: array = field(default_factory=lambda: array("Q"))  # characters of each document
    hashes: array = field(default_factory=lambda: array("Q"))  # 64 bits of each document's content
    mojibake: int = 0  # places with damaged encoding


class SplitRule:
    """Assign documents to splits.

    First keep a random share (`data.subset`), then hold out a share of that (`data.split`) for
    validation, or for a test if the source has its own validation split. `split_by=random` decides
    by a hash of seed and content, so equal documents are in one split; `tail` holds out the end.
    If documents are too few to come near the share, hold out the end, and cut the document in
    which it starts in two, at a line or a space.
    Raises UserError if the settings leave a split empty.
    """

    def __init__(self, scans: dict[str, DocumentScan], data: DataConfig, seed: int):
        self.scans = scans
        self.held_out_split = "test" if "valid" in scans else "valid"
        self.cut: tuple[int, int] | None = None  # a document's index, and a character in it
        self.salt = seed.to_bytes(8, "little")
        if data.max_tokens and data.split_by == "tail" and data.split > 0:
            raise UserError(
                f"data.max_tokens={data.max_tokens} stops before the tail to hold out; "
                "use data.split_by=random, or data.max_samples"
            )
        lengths = np.array(scans["train"].lengths, dtype=np.int64)
        self.kept = self.uniform_hash(b"subset") < data.subset
        lengths[~self.kept] = 0
        self.in_train = self.uniform_hash(b"split") >= data.split
        self.description = f"{data.split:g} of the documents by a hash of seed and content"
        if data.split == 0:
            self.description = "the source's own held-out documents"
        elif self.kept.any() and not (
            data.split_by == "random" and self.is_near_share(lengths, data.split)
        ):
            self.hold_out_tail(lengths, data.split)
        if data.subset < 1:
            self.description += f", from a random {data.subset:g} of them"
        if not (self.kept & self.in_train).any() or (data.subset < 1 and self.kept.sum() < 2):
            raise UserError(
                f"data.subset={data.subset:g} leaves none of {plural(len(lengths), 'document')} to "
                "train on; use a larger share"
            )

    def is_near_share(self, lengths: np.ndarray, split: float) -> bool:
        """Check that the held-out characters are between a third and three times the share."""
        share = lengths[~self.in_train].sum() / lengths.sum()
        return split / 3 <= share <= min(3 * split, (1 + split) / 2)

    def hold_out_tail(self, lengths: np.ndarray, split: float) -> None:
        """Hold out the end from the nearest document boundary, or from within a document."""
        ends = lengths.cumsum()
        target = int((1 - split) * ends[-1])
        boundary = int(np.abs(ends - target).argmin()) + 1
        self.in_train = np.arange(len(lengths)) < boundary
        self.description = f"the last {split:g}, at the nearest document boundary"
        if not self.is_near_share(lengths, split):
            index = int(np.searchsorted(ends, target, side="right"))
            self.in_train = np.arange(len(lengths)) <= index
            self.cut = (index, target - int(ends[index] - lengths[index]))
            self.description = f"the last {split:g}, cut within a document"

    def uniform_hash(self, purpose: bytes) -> np.ndarray:
        """Hash each training document to [0, 1) by seed, purpose and content."""
        key = blake2b(self.salt + purpose, digest_size=8).digest()
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        return splitmix64(content ^ np.frombuffer(key, dtype=np.uint64)[0]) / 2.0**64

    def assign(self, split: str, chunks: Iterator[TextChunk]) -> Iterator[tuple[str, TextChunk]]:
        """Yield (split, chunk) for each kept chunk of one of the source's splits."""
        index, position = 0, 0
        # As bytes: reading single values of an array is slow.
        kept, in_train = self.kept.tobytes(), self.in_train.tobytes()
        for chunk in chunks:
            text, ends_document = chunk
            if split != "train":
                yield split, chunk
            elif not kept[index]:
                pass
            elif self.cut is not None and self.cut[0] == index:
                before, after = cut_text(text, self.cut[1] - position)
                if before:
                    yield "train", TextChunk(before, ends_document or bool(after))
                if after:
                    yield self.held_out_split, TextChunk(after, ends_document)
            else:
                yield "train" if in_train[index] else self.held_out_split, chunk
            position = 0 if ends_document else position + len(text)
            index += ends_document

    def count_duplicate_documents(self) -> int:
        """Count the held-out documents that are also training documents, by exact match."""
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        held_out = [content[self.kept & ~self.in_train]]
        if "valid" in self.scans:
            held_out.append(np.frombuffer(self.scans["valid"].hashes, dtype=np.uint64))
        return int(np.isin(np.concatenate(held_out), content[self.in_train & self.kept]).sum())


def cut_text(text: str, position: int) -> tuple[str, str]:
    """Cut a text in two at the next line or word after a position."""
    if position <= 0:
        return "", text
    if position >= len(text):
        return text, ""
    for separator in ("\n", " "):
        found = text.find(separator, position, position + 2000)
        if found != -1 and found + 1 < len(text):
            position = found + 1
            break
    return text[:position].rstrip(), text[position:].lstrip()


def split_records(
    records: list[Record], data: DataConfig, seed: int
) -> tuple[dict[str, list[Record]], str]:
    """Assign records to splits; return the splits and a description of the rule.

    Records with equal texts are in one split, and every class has the same shares. The order
    depends on seed and content, not on the order in the file. Texts with several classes are
    left out.
    """
    classes: dict[str, set[str | None]] = defaultdict(set)
    groups: dict[str, list[Record]] = defaultdict(list)  # records with equal texts
    for record in records:
        text = normalize_record(record)
        groups[text].append(record)
        classes[text].add(record.label)
    conflicting = sum(len(groups.pop(text)) for text in list(groups) if len(classes[text]) > 1)
    groups_by_class: dict[str | None, list[list[Record]]] = defaultdict(list)
    salt = seed.to_bytes(8, "little")
    order = sorted(groups, key=lambda t: blake2b(t.encode(), key=salt, digest_size=8).digest())
    for text in order:
        groups_by_class[next(iter(classes[text]))].append(groups[text])
    counts = {name: sum(map(len, groups)) for name, groups in groups_by_class.items()}
    limit = (min if data.balance_classes else max)(counts.values(), default=0)
    splits: dict[str, list[Record]] = {"train": [], "valid": [], "test": []}
    unbalanced = 0
    for name, class_groups in groups_by_class.items():
        size = min(limit, counts[name])
        unbalanced += counts[name] - size
        free = {"test": round(size * data.test_split), "valid": round(size * data.split)}
        free["train"] = size - sum(free.values())
        for group in class_groups:
            # A group that fits no split goes to the largest, so that the test is not one group.
            fitting = [split for split in free if len(group) <= free[split]]
            split = fitting[0] if fitting else max(free, key=lambda split: free[split])
            group = group[: free[split]]
            splits[split] += group
            free[split] -= len(group)
    rule = f"{data.split:g} for validation, {data.test_split:g} for a test, equal texts together"
    if unbalanced:
        rule += f"; {unbalanced:,} left out to balance the classes"
    if conflicting:
        rule += f"; {conflicting:,} left out because equal texts have different classes"
    return {name: split for name, split in splits.items() if split or name != "test"}, rule


def normalize_record(record: Record) -> str:
    """Return the text by which records count as duplicates, without case and extra spaces.

    Long numbers in messages are masked: one advertisement has many telephone numbers.
    """
    if isinstance(record, Message):
        return re.sub(r"\d{4,}", "0000", " ".join(record.text.casefold().split()))
    return " ".join(f"{record.instruction}\n{record.input}".casefold().split())
