"""The files of a corpus folder, written: tokens, document ends, metadata."""

import json
import zlib
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.corpus import Split, checksums
from gptlab.data.tokenizer import Tokenizer, fingerprint
from gptlab.errors import UserError

SHORTEST = 64  # tokens; below, there is nothing to learn


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
        self.split.checksums = checksums(self.path)
        stem = str(self.path.with_suffix(""))
        np.save(f"{stem}.ends.npy", np.frombuffer(self.ends, dtype=np.uint64).astype(np.int64))
        if self.nats:
            np.save(f"{stem}.nats.npy", np.array(self.nats))
        if self.marks:
            np.save(f"{stem}.marks.npy", np.array(self.marks, dtype=np.int64))
        return self.split


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


def finish(
    folder: Path, writers: dict[str, SplitWriter], tokenizer: Tokenizer, meta: dict[str, Any]
) -> None:
    """Closes the token files and writes the rest; raises UserError where a split is empty."""
    splits = {name: writer.finish() for name, writer in writers.items()}
    check_length(splits)
    meta |= {
        "dtype": np.dtype(dtype_of(tokenizer)).name,
        "tokenizer": fingerprint(tokenizer),
        "splits": {name: asdict(split) for name, split in splits.items()},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.state()))
    small = [path for path in folder.iterdir() if path.suffix != ".bin"]
    meta["files"] = {path.name: zlib.crc32(path.read_bytes()) for path in small}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, default=str))
