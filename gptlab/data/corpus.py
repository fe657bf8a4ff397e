"""A finished corpus: one memory-mapped token file a split, with a metadata file beside them."""

import json
import zlib
from array import array
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.tokenizer import Tokenizer, fingerprint, load_tokenizer
from gptlab.utils.errors import UserError

CHECKSUM_BLOCK = 4 << 20  # bytes under one checksum


@dataclass
class Split:
    """What the metadata says of one split."""

    documents: int = 0
    tokens: int = 0  # with an end-of-text after each document
    bytes: int = 0  # of text, in UTF-8
    checksums: list[int] = field(default_factory=list)  # CRC-32 of each BLOCK of the token file


class Corpus:
    """A finished corpus, opened. Raises UserError where it is damaged."""

    def __init__(self, folder: Path, every_block: bool = False):
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text())
            self.splits = {name: Split(**split) for name, split in self.meta["splits"].items()}
            self.dtype = np.dtype(self.meta["dtype"])
            self.splits["train"], self.meta["split_rule"]  # without these it is no corpus
            files = dict(self.meta["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder}: its meta.json cannot be read ({error!r})") from None
        for name, wanted in files.items():
            path = folder / name
            if not path.is_file() or zlib.crc32(path.read_bytes()) != wanted:
                raise UserError(f"{path}: damaged (missing, or its checksum differs)")
        for name in self.splits:
            self.verify(name, every_block)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        try:
            return load_tokenizer(json.loads(path.read_text()))
        except (OSError, ValueError, AttributeError):
            raise UserError(f"{path}: damaged (it is no tokenizer's)") from None

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.bin"

    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split, read-only, straight from the file."""
        return np.memmap(self.path(split), dtype=self.dtype, mode="r")

    def ends(self, split: str) -> np.ndarray:
        """For each document, the place just behind its end-of-text."""
        path, wanted = self.folder / f"{split}.ends.npy", self.splits[split]
        try:
            ends = np.load(path, mmap_mode="r")
            whole = ends.dtype == np.int64 and ends.shape == (wanted.documents,)
            if not whole or not len(ends) or ends[-1] > wanted.tokens or (np.diff(ends) <= 0).any():
                raise ValueError
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path}: damaged (it does not fit the tokens)") from None
        return ends

    def nats(self, split: str) -> np.ndarray | None:
        """For each document, its true negative log-likelihood, where the source knows it."""
        path = self.folder / f"{split}.nats.npy"
        return np.load(path) if path.exists() else None

    def marks(self, split: str) -> np.ndarray:
        """For each record what there is to know beside its tokens: of a message its class, of an
        instruction how many tokens come before the response."""
        return np.load(self.path(split).with_suffix(".marks.npy"))

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes of a labelled corpus."""
        return self.meta.get("classes")

    def verify(self, split: str, every_block: bool) -> None:
        """Compares size and checksums: of the first, the last and three other blocks, or of all."""
        wanted = self.splits[split]
        path = self.path(split)
        size = wanted.tokens * self.dtype.itemsize
        if not path.exists() or path.stat().st_size != size:
            raise UserError(f"{path}: damaged (it should have {size:,} bytes)")
        count = len(wanted.checksums)
        sampled = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1} & set(range(count)))
        for block in range(count) if every_block else sampled:
            if block_checksum(path, block) != wanted.checksums[block]:
                raise UserError(f"{path}: damaged (the checksum of block {block} differs)")


def block_checksum(path: Path, block: int) -> int:
    with path.open("rb") as file:
        file.seek(block * CHECKSUM_BLOCK)
        return zlib.crc32(file.read(CHECKSUM_BLOCK))


def file_checksums(path: Path) -> list[int]:
    return [
        block_checksum(path, block) for block in range(-(-path.stat().st_size // CHECKSUM_BLOCK))
    ]


MIN_TOKENS = 64  # tokens; below, there is nothing to learn


def token_dtype(tokenizer: Tokenizer) -> type:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


class SplitWriter:
    """Appends tokens to one split's file and keeps count."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer):
        self.path = folder / f"{name}.bin"
        self.file = self.path.open("wb")
        self.eot = tokenizer.eot
        self.dtype = token_dtype(tokenizer)
        self.split = Split()
        self.ends = array("Q")
        self.nats: list[float] = []
        self.marks: list[int] = []

    def add(self, tokens: np.ndarray, text_bytes: int, nats: list[float]) -> None:
        """Documents, each with its end-of-text."""
        ends = np.flatnonzero(tokens == self.eot) + 1 + self.split.tokens
        self.ends.frombytes(ends.astype(np.uint64).tobytes())
        self.file.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.split.tokens += len(tokens)
        self.split.bytes += text_bytes
        self.nats += nats

    def finish(self) -> Split:
        self.file.close()
        self.split.documents = len(self.ends)
        self.split.checksums = file_checksums(self.path)
        stem = str(self.path.with_suffix(""))
        np.save(f"{stem}.ends.npy", np.frombuffer(self.ends, dtype=np.uint64).astype(np.int64))
        if self.nats:
            np.save(f"{stem}.nats.npy", np.array(self.nats))
        if self.marks:
            np.save(f"{stem}.marks.npy", np.array(self.marks, dtype=np.int64))
        return self.split


def check_split_sizes(splits: dict[str, Split]) -> None:
    tokens = sum(split.tokens for split in splits.values())
    if tokens < MIN_TOKENS:
        raise UserError(f"the text is too short: {tokens} tokens; at least {MIN_TOKENS} are needed")
    for name, split in splits.items():
        if split.tokens < 2:
            raise UserError(
                f"data.split: nothing is left for the {name} split; give more text, another share, "
                "or held-out text by data.valid_path="
            )


def write_corpus_files(
    folder: Path, writers: dict[str, SplitWriter], tokenizer: Tokenizer, meta: dict[str, Any]
) -> None:
    """Closes the token files and writes the rest; raises UserError where a split is empty."""
    splits = {name: writer.finish() for name, writer in writers.items()}
    check_split_sizes(splits)
    meta |= {
        "dtype": np.dtype(token_dtype(tokenizer)).name,
        "tokenizer": fingerprint(tokenizer),
        "splits": {name: asdict(split) for name, split in splits.items()},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.state()))
    small = [path for path in folder.iterdir() if path.suffix != ".bin"]
    meta["files"] = {path.name: zlib.crc32(path.read_bytes()) for path in small}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, default=str))
