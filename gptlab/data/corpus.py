"""Documents to one memory-mapped token file a split, with a metadata file beside them.

A corpus is a folder under `corpus_root`, named by a hash of all that decides its content: it is
built once, in a temporary folder that is renamed when complete, and found again afterwards.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config import DataConfig, TokenizerConfig
from gptlab.data.sources import make_source
from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.errors import UserError

FORMAT = 1  # raised when what a corpus folder holds changes
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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: its meta.json cannot be read ({error!r})") from None
        for name in self.splits:
            self.verify(name, every_block)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(json.loads((self.folder / "tokenizer.json").read_text()))

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.bin"

    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split, read-only, straight from the file."""
        return np.memmap(self.path(split), dtype=self.dtype, mode="r")

    def ends(self, split: str) -> np.ndarray:
        """For each document, the place just behind its end-of-text."""
        return np.load(self.folder / f"{split}.ends.npy", mmap_mode="r")

    def nats(self, split: str) -> np.ndarray | None:
        """For each document, its true negative log-likelihood, where the source knows it."""
        path = self.folder / f"{split}.nats.npy"
        return np.load(path) if path.exists() else None

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
        if len(self.ends(split)) != wanted.documents:
            raise UserError(f"{self.folder / split}.ends.npy: damaged (documents are missing)")


def checksum(path: Path, block: int) -> int:
    with path.open("rb") as file:
        file.seek(block * BLOCK)
        return zlib.crc32(file.read(BLOCK))


def checksums(path: Path) -> list[int]:
    return [checksum(path, block) for block in range(-(-path.stat().st_size // BLOCK))]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def open_corpus(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    seed: int,
    corpus_root: str,
    every_block: bool = False,
) -> Corpus:
    """The corpus of this configuration: found, or built now.

    Raises UserError for sources that cannot be read; then nothing is left on disk.
    """
    root = Path(corpus_root).expanduser()
    source = make_source(data, seed, root)
    decisive = {name: getattr(data, name) for name in DECISIVE}
    key = [FORMAT, source.identity(), asdict(tokenizer), decisive, seed]
    digest = sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = root / f"{corpus_name(data)}-{tokenizer.name}-{digest[:12]}"
    if folder.exists():
        try:
            return Corpus(folder, every_block)
        except UserError as error:
            say(f"{error}: building this corpus anew")
            shutil.rmtree(folder)
    from gptlab.data.build import build

    with temporary_folder(folder) as building:
        build(building, source, data, tokenizer, seed, {"key": key})
    return Corpus(folder)


# Settings that change which documents a corpus holds, and in which split.
DECISIVE = (
    *("text_column", "documents", "repair_encoding", "max_samples", "max_tokens"),
    *("subset", "split", "split_by"),
)


def corpus_name(data: DataConfig) -> str:
    if data.path is not None:
        first = data.path if isinstance(data.path, str) else str(data.path[0])
        return Path(first).resolve().name.split(".")[0] or "text"
    return Path(data.hub).name if data.source == "hub" and data.hub else data.source


@contextlib.contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A folder to build in, renamed to `final` when the block ends well and removed when not.

    Two processes may build the same corpus: the first to finish wins, the other's is dropped.
    Raises UserError for a full disk or a folder that cannot be written.
    """
    building = final.parent / f".{final.name}.{os.getpid()}.building"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        yield building
        with contextlib.suppress(OSError):  # the target exists: somebody else was faster
            building.rename(final)
        if not final.is_dir():
            raise UserError(f"{final}: cannot be created")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM):
            raise
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); nothing was kept; "
            "choose another disk with corpus_root="
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_abandoned(final: Path) -> None:
    """Removes what killed processes left of this corpus."""
    for left in final.parent.glob(f".{final.name}.*.building"):
        process = left.name.split(".")[-2]
        if not Path(f"/proc/{process}").exists() and not alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def describe(corpus: Corpus) -> dict[str, Any]:
    """The corpus in words, for a run's opening lines."""
    train = corpus.splits["train"]
    held = {name: split.documents for name, split in corpus.splits.items() if name != "train"}
    return {
        "documents": train.documents,
        "tokens": train.tokens,
        "held out": held,
        "folder": str(corpus.folder),
    }
