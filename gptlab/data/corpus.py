"""A tokenized corpus on disk: one memory-mapped token file per split, with metadata and checksums.

`SplitWriter` and `write_corpus_files` write the folder, `Corpus` opens it.
"""

import json
import mmap
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.tokenizer import Tokenizer, fingerprint, load_tokenizer, token_dtype
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError

CHECKSUM_BLOCK = 4 << 20  # bytes per checksum
MIN_TOKENS = 64  # a corpus with fewer tokens teaches nothing


@dataclass
class Split:
    """The metadata of one split."""

    documents: int = 0
    tokens: int = 0  # including the end-of-text after each document
    bytes: int = 0  # of text, in UTF-8
    checksums: list[int] = field(default_factory=list)  # CRC-32 of each block of the token file


class TokenFile(np.memmap):
    """A memory map that worker processes open again, where they do not inherit memory.

    NumPy would send them a copy of the whole file.
    """

    def __reduce__(self) -> Any:
        if isinstance(self.base, mmap.mmap):  # not a slice of it
            return TokenFile, (self.filename, self.dtype, "r")
        return super().__reduce__()


class Corpus:
    """An open corpus. Raises UserError if the folder is damaged.

    Checks five blocks of each token file, or with `verify_all` every block.
    """

    def __init__(self, folder: Path, verify_all: bool = False):
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self.splits = {name: Split(**split) for name, split in self.meta["splits"].items()}
            self.dtype = np.dtype(self.meta["dtype"])
            _ = self.splits["train"], self.meta["split_rule"]  # raises KeyError without them
            small_files = dict(self.meta["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder}: cannot read its meta.json ({error!r})") from None
        for name, checksum in small_files.items():
            path = folder / name
            if not path.is_file() or zlib.crc32(path.read_bytes()) != checksum:
                raise UserError(f"{path}: damaged (missing, or its checksum differs)")
        for name in self.splits:
            self.verify_token_file(name, verify_all)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        try:
            return load_tokenizer(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError):
            raise UserError(f"{path}: damaged (not a tokenizer)") from None

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.bin"

    def tokens(self, split: str) -> np.ndarray:
        """Return all tokens of a split as a read-only memory map."""
        return TokenFile(self.path(split), dtype=self.dtype, mode="r")

    def document_ends(self, split: str) -> np.ndarray:
        """Return the index after each document's end-of-text, int64."""
        path, metadata = self.folder / f"{split}.ends.npy", self.splits[split]
        try:
            ends = np.load(path, mmap_mode="r")
            if ends.dtype != np.int64 or ends.shape != (metadata.documents,) or not len(ends):
                raise ValueError
            if ends[-1] > metadata.tokens or (np.diff(ends) <= 0).any():
                raise ValueError
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path}: damaged (does not match the tokens)") from None
        return ends

    def documents(self, split: str, count: int | None = None) -> Iterator[list[int]]:
        """Yield the tokens of the first `count` documents, or of all, without end-of-text."""
        tokens, start = self.tokens(split), 0
        for end in self.document_ends(split)[:count].tolist():
            yield tokens[start : end - 1].tolist()
            start = end

    def negative_log_likelihoods(self, split: str) -> np.ndarray | None:
        """Return each document's true negative log-likelihood in nats; None if it is unknown."""
        path = self.folder / f"{split}.nats.npy"
        return np.load(path) if path.exists() else None

    def labels(self, split: str) -> np.ndarray:
        """Return the class index of each message (data.task=classification)."""
        return np.load(self.folder / f"{split}.labels.npy")

    def prompt_lengths(self, split: str) -> np.ndarray:
        """Return the number of tokens before each response (data.task=instructions)."""
        return np.load(self.folder / f"{split}.prompt_lengths.npy")

    @property
    def classes(self) -> list[str] | None:
        """The class names of a labeled corpus."""
        return self.meta.get("classes")

    def verify_token_file(self, split: str, all_blocks: bool) -> None:
        """Compare size and checksums: all blocks, or the first, the last and three others."""
        metadata, path = self.splits[split], self.path(split)
        size = metadata.tokens * self.dtype.itemsize
        if not path.exists() or path.stat().st_size != size:
            raise UserError(f"{path}: damaged (must have {size:,} bytes)")
        count = len(metadata.checksums)
        sampled = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1} & set(range(count)))
        for block in range(count) if all_blocks else sampled:
            if block_checksum(path, block) != metadata.checksums[block]:
                raise UserError(f"{path}: damaged (the checksum of block {block} differs)")


def block_checksum(path: Path, block: int) -> int:
    with path.open("rb") as file:
        file.seek(block * CHECKSUM_BLOCK)
        return zlib.crc32(file.read(CHECKSUM_BLOCK))


class SplitWriter:
    """Append documents to the token file of one split."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer):
        self.path = folder / f"{name}.bin"
        self.file = self.path.open("wb")
        self.eot, self.dtype = tokenizer.eot, token_dtype(tokenizer.vocab_size)
        self.split = Split()
        self.ends = array("Q")
        self.negative_log_likelihoods: list[float] = []
        self.labels: list[int] = []
        self.prompt_lengths: list[int] = []

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Append the tokens of one or more documents, each with its end-of-text."""
        ends = np.flatnonzero(tokens == self.eot) + 1 + self.split.tokens
        self.ends.frombytes(ends.astype(np.uint64).tobytes())
        self.file.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.split.tokens += len(tokens)
        self.split.bytes += text_bytes

    def close(self) -> Split:
        """Close the token file, write the arrays next to it, and return the split's metadata."""
        self.file.close()
        self.split.documents = len(self.ends)
        blocks = range(-(-self.path.stat().st_size // CHECKSUM_BLOCK))
        self.split.checksums = [block_checksum(self.path, block) for block in blocks]
        arrays = {
            "ends": np.frombuffer(self.ends, dtype=np.uint64).astype(np.int64),
            "nats": np.array(self.negative_log_likelihoods, dtype=np.float64),
            "labels": np.array(self.labels, dtype=np.int64),
            "prompt_lengths": np.array(self.prompt_lengths, dtype=np.int64),
        }
        for name, values in arrays.items():
            if name == "ends" or len(values):
                np.save(self.path.with_suffix(f".{name}.npy"), values)
        return self.split


def write_corpus_files(
    folder: Path, writers: dict[str, SplitWriter], tokenizer: Tokenizer, meta: dict[str, Any]
) -> None:
    """Close the token files, then write tokenizer and metadata. UserError if a split is empty."""
    splits = {name: writer.close() for name, writer in writers.items()}
    tokens = sum(split.tokens for split in splits.values())
    if tokens < MIN_TOKENS:
        raise UserError(
            f"the text is too short: {plural(tokens, 'token')}, but {MIN_TOKENS} are needed"
        )
    for name, split in splits.items():
        if split.tokens < 2:
            raise UserError(
                f"data.split: the {name} split is empty; use more text, another share, "
                "or data.valid_path=FILE"
            )
    (folder / "tokenizer.json").write_bytes(json.dumps(tokenizer.state()).encode())
    small_files = [path for path in folder.iterdir() if path.suffix != ".bin"]
    meta = meta | {
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "tokenizer": fingerprint(tokenizer),
        "splits": {name: asdict(split) for name, split in splits.items()},
        "files": {path.name: zlib.crc32(path.read_bytes()) for path in small_files},
    }
    (folder / "meta.json").write_bytes(json.dumps(meta, indent=1, default=str).encode())
