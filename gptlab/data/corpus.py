"""A finished corpus: one memory-mapped token file a split, with a metadata file beside them."""

import json
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.errors import UserError

BLOCK = 4 << 20  # bytes under one checksum


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
            if checksum(path, block) != wanted.checksums[block]:
                raise UserError(f"{path}: damaged (the checksum of block {block} differs)")


def checksum(path: Path, block: int) -> int:
    with path.open("rb") as file:
        file.seek(block * BLOCK)
        return zlib.crc32(file.read(BLOCK))


def checksums(path: Path) -> list[int]:
    return [checksum(path, block) for block in range(-(-path.stat().st_size // BLOCK))]
