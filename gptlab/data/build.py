"""The making of a corpus: scan the documents, decide their splits, tokenise, write.

Two passes over the source. The first reads all of it, so that a flaw in the last file is found
before anything is written; it collects lengths, hashes and the vocabulary. The second encodes on
all cores while documents stream by; memory holds a few megabytes of text, however long it is.
"""

import json
import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config import DataConfig, TokenizerConfig
from gptlab.data.corpus import Split, checksums, say
from gptlab.data.readers import Piece, repair
from gptlab.data.sources import Source
from gptlab.data.tokenizer import Tokenizer, build_tokenizer, fingerprint
from gptlab.errors import UserError

SHORTEST = 64  # tokens; below, there is nothing to learn
BATCH = 1 << 20  # characters encoded at once


@dataclass
class Scan:
    """What the first pass learns of one of the source's splits."""

    lengths: array = field(default_factory=lambda: array("Q"))  # characters of each document
    hashes: array = field(default_factory=lambda: array("Q"))  # 64 bits of each document's content
    mojibake: int = 0  # places where the encoding was damaged


def clean(pieces: Iterator[Piece], config: DataConfig, scan: Scan | None = None) -> Iterator[Piece]:
    """The pieces as they are kept: white space round documents and empty documents dropped,
    encoding damage counted and, on request, mended, at most `max_samples` documents."""
    count, start = 0, True
    for text, whole in pieces:
        mended, damage = repair(text)
        if scan is not None:
            scan.mojibake += damage
        text = mended if config.repair_encoding else text
        text = text.lstrip() if start else text
        text = text.rstrip() if whole else text
        if start and not text:
            continue
        yield text, whole
        start = whole
        count += whole
        if count == config.max_samples:
            return


def scan_documents(pieces: Iterator[Piece], config: DataConfig, scan: Scan) -> Iterator[str]:
    """Passes the text on (to the vocabulary's making) and notes lengths and hashes as it goes."""
    length, content = 0, blake2b(digest_size=8)
    for text, whole in clean(pieces, config, scan):
        length += len(text)
        content.update(text.encode())
        if whole:
            scan.lengths.append(length)
            scan.hashes.append(int.from_bytes(content.digest(), "little"))
            length, content = 0, blake2b(digest_size=8)
        yield text


def build(
    folder: Path,
    source: Source,
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    seed: int,
    meta: dict[str, Any],
) -> None:
    """Writes token files, document ends and metadata into the folder. Raises UserError."""
    scans = {split: Scan() for split in source.splits}
    texts = (
        text
        for split, scan in scans.items()
        for text in scan_documents(source.pieces(split), data, scan)
    )
    tokenizer = build_tokenizer(tokenizer_config, texts)
    for _ in texts:  # a vocabulary that needs no training has not read them
        pass
    for split, scan in scans.items():
        if not scan.lengths:
            raise UserError(f"data.{'path' if split == 'train' else 'valid_path'}: holds no text")
    plan = Plan(scans, data, seed)
    writers = write(folder, source, plan, data, tokenizer)
    splits = {name: writer.finish() for name, writer in writers.items()}
    check_length(splits)
    damage = sum(scan.mojibake for scan in scans.values())
    meta |= {
        "dtype": np.dtype(dtype_of(tokenizer)).name,
        "tokenizer": fingerprint(tokenizer),
        "split_rule": plan.rule,
        "mojibake": damage,
        "repaired": data.repair_encoding,
        "duplicates_across_splits": plan.duplicates(),
        "splits": {name: asdict(split) for name, split in splits.items()},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.state()))
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, default=str))
    if damage and not data.repair_encoding:
        say(f"encoding damage such as â€œ in {damage:,} places; data.repair_encoding=true mends it")


def check_length(splits: dict[str, Split]) -> None:
    tokens = sum(split.tokens for split in splits.values())
    if tokens < SHORTEST:
        raise UserError(f"the text is too short: {tokens} tokens; at least {SHORTEST} are needed")
    for name, split in splits.items():
        if split.tokens < 2:
            raise UserError(
                f"data.split: nothing is left for the {name} split; give more text, another share, "
                "or held-out text by data.valid_path="
            )


class Plan:
    """Which split each document belongs to.

    Held-out documents validate, or test where the source brings its own validation. `random`
    decides by a hash of seed and content, so equal documents never fall on two sides; `tail`
    holds out the end. A single document is cut in two at a line or a space.
    """

    def __init__(self, scans: dict[str, Scan], data: DataConfig, seed: int):
        self.scans = scans
        self.held = "test" if "valid" in scans else "valid"
        self.cut: int | None = None  # character at which a single document is cut
        self.salt = seed.to_bytes(8, "little")
        lengths = np.array(scans["train"].lengths, dtype=np.int64)
        self.train = self.share(b"split") >= data.split
        self.rule = f"{data.split:g} of the documents by a hash of seed and content"
        if data.split_by == "tail" and data.split > 0:
            done = lengths.cumsum()
            boundary = int(np.abs(done - (1 - data.split) * lengths.sum()).argmin()) + 1
            self.train = np.arange(len(lengths)) < boundary
            self.rule = f"the last {data.split:g}, at the nearest document boundary"
        if data.split == 0 and self.held == "valid":
            raise UserError("data.split=0: nothing would be held out; give a share or valid_path")
        if data.split > 0 and (self.train.all() or not self.train.any()):
            self.rescue(lengths, data)
        self.kept = self.share(b"subset") < data.subset
        if data.subset < 1 and not (self.kept & self.train).any():
            raise UserError(f"data.subset={data.subset:g}: leaves no document to train on")

    def rescue(self, lengths: np.ndarray, data: DataConfig) -> None:
        """Few documents can leave a side empty: hold one out, or cut the only one."""
        self.train[:] = True
        if len(lengths) > 1:
            self.train[-1] = False
            self.rule = "the last document"
        else:
            self.cut = int(lengths[0] * (1 - data.split))
            self.rule = f"the last {data.split:g} of the only document"

    def share(self, purpose: bytes) -> np.ndarray:
        """For each training document a number from 0 to 1, by seed, purpose and content."""
        key = blake2b(self.salt + purpose, digest_size=8).digest()
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        return mix(content ^ np.frombuffer(key, dtype=np.uint64)[0]) / 2.0**64

    def assign(self, split: str, pieces: Iterator[Piece]) -> Iterator[tuple[str, str, bool]]:
        """(split, text, whole) for each piece that is kept."""
        index, position = 0, 0
        for text, whole in pieces:
            if split != "train":
                yield split, text, whole
            elif self.cut is not None:
                before, after = self.cut_piece(text, position)
                if before:
                    yield "train", before, whole or bool(after)
                if after:
                    yield self.held, after, whole
            elif not self.train[index]:
                yield self.held, text, whole
            elif self.kept[index]:
                yield "train", text, whole
            position += len(text)
            index += whole

    def cut_piece(self, text: str, position: int) -> tuple[str, str]:
        assert self.cut is not None
        place = self.cut - position
        if place <= 0:
            return "", text
        if place >= len(text):
            return text, ""
        for mark in ("\n", " "):
            near = text.find(mark, place, place + 2000)
            if near != -1 and near + 1 < len(text):
                place = near + 1
                break
        return text[:place].rstrip(), text[place:].lstrip()

    def duplicates(self) -> int:
        """Held-out documents that stand in the training documents too, to the letter."""
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        held = [content[~self.train]]
        if "valid" in self.scans:
            held.append(np.frombuffer(self.scans["valid"].hashes, dtype=np.uint64))
        return int(np.isin(np.concatenate(held), content[self.train & self.kept]).sum())


def mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each number: the finaliser of SplitMix64 (Steele and others, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def dtype_of(tokenizer: Tokenizer) -> type:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


class SplitWriter:
    """Appends tokens to one split's file and keeps count."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer):
        self.path = folder / f"{name}.bin"
        self.file = self.path.open("wb")
        self.eot = tokenizer.eot
        self.dtype = dtype_of(tokenizer)
        self.split = Split()
        self.ends = array("Q")
        self.nats: list[float] = []

    def add(self, tokens: np.ndarray, text_bytes: int, nats: list[float]) -> None:
        ends = np.flatnonzero(tokens == self.eot) + 1 + self.split.tokens
        self.ends.frombytes(ends.astype(np.uint64).tobytes())
        self.file.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.split.tokens += len(tokens)
        self.split.bytes += text_bytes
        self.nats += nats

    def finish(self) -> Split:
        self.file.close()
        self.split.documents = len(self.ends)
        self.split.checksums = checksums(self.path)
        stem = str(self.path.with_suffix(""))
        np.save(f"{stem}.ends.npy", np.frombuffer(self.ends, dtype=np.uint64).astype(np.int64))
        if self.nats:
            np.save(f"{stem}.nats.npy", np.array(self.nats))
        return self.split


def write(
    folder: Path, source: Source, plan: Plan, data: DataConfig, tokenizer: Tokenizer
) -> dict[str, SplitWriter]:
    """The second pass: encodes batches on all cores and writes them in order."""
    from tqdm import tqdm

    workers = os.cpu_count() or 1
    names = dict.fromkeys(["train", plan.held, *source.splits] if data.split else source.splits)
    writers = {name: SplitWriter(folder, name, tokenizer) for name in names}
    total = sum(sum(scan.lengths) for scan in plan.scans.values())
    pending: deque[Future] = deque()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, unit="B", unit_scale=True, desc="tokenising", disable=None) as bar,
    ):

        def write_first() -> bool:
            """Writes the oldest batch; says whether more is wanted."""
            split, tokens, characters, text_bytes, nats = pending.popleft().result()
            writers[split].add(tokens, text_bytes, nats)
            bar.update(characters)
            return sum(w.split.tokens for w in writers.values()) < (data.max_tokens or 2**63)

        for batch in batches(source, plan, data):
            pending.append(pool.submit(encode, batch, source, tokenizer))
            if len(pending) > 2 * workers and not write_first():
                return writers
        while pending and write_first():
            pass
    return writers


Batch = tuple[str, list[str], bool]  # split, documents, whether the last one is whole


def batches(source: Source, plan: Plan, data: DataConfig) -> Iterator[Batch]:
    """Documents of one split in a row, about BATCH characters together."""
    for name in source.splits:
        held: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for split, text, whole in plan.assign(name, clean(source.pieces(name), data)):
            held.setdefault(split, []).append(text)
            sizes[split] = sizes.get(split, 0) + len(text)
            if sizes[split] >= BATCH or not whole:
                yield split, held.pop(split), whole
                sizes[split] = 0
        for split, texts in held.items():
            yield split, texts, True


def encode(
    batch: Batch, source: Source, tokenizer: Tokenizer
) -> tuple[str, np.ndarray, int, int, list[float]]:
    split, texts, whole = batch
    tokens = tokenizer.encode_documents(texts)
    if not whole:  # the document goes on in the next batch
        tokens = tokens[:-1]
    nats = [source.nats(text) for text in texts] if split != "train" else []
    text_bytes = sum(len(text.encode()) for text in texts)
    known = [value for value in nats if value is not None]
    return split, tokens, sum(map(len, texts)), text_bytes, known
