"""Which split each document belongs to, decided before anything is cut into windows."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from gptlab.config.schema import DataConfig
from gptlab.data.readers import Piece
from gptlab.utils.errors import UserError
from gptlab.utils.hashing import splitmix64


@dataclass
class Scan:
    """What the first pass learns of one of the source's splits."""

    lengths: array = field(default_factory=lambda: array("Q"))  # characters of each document
    hashes: array = field(default_factory=lambda: array("Q"))  # 64 bits of each document's content
    mojibake: int = 0  # places where the encoding was damaged


class SplitRule:
    """Which split each document belongs to.

    First a random share is kept (`data.subset`), then the held-out share is taken of that.
    Held-out documents validate, or test where the source brings its own validation. `random`
    decides by a hash of seed and content, so equal documents never fall on two sides; `tail`
    holds out the end. Where documents are too few to come near the share, the end is held out
    and the document in which it begins is cut in two, at a line or a space.
    Raises UserError where a split would be empty by its settings.
    """

    def __init__(self, scans: dict[str, Scan], data: DataConfig, seed: int):
        self.scans = scans
        self.held = "test" if "valid" in scans else "valid"
        self.cut: tuple[int, int] | None = None  # document, and character in it
        self.salt = seed.to_bytes(8, "little")
        if data.max_tokens and data.split_by == "tail" and data.split > 0:
            raise UserError(
                f"data.max_tokens={data.max_tokens}: would end before the tail that is held out; "
                "take data.split_by=random, or data.max_samples"
            )
        if data.split == 0 and self.held == "valid":
            raise UserError("data.split=0: nothing would be held out; give a share or valid_path")
        lengths = np.array(scans["train"].lengths, dtype=np.int64)
        self.kept = self.share(b"subset") < data.subset
        lengths[~self.kept] = 0
        self.train = self.share(b"split") >= data.split
        self.words = f"{data.split:g} of the documents by a hash of seed and content"
        if data.split == 0:
            self.words = "held-out documents of its own"
        elif self.kept.any() and (data.split_by == "tail" or not self.near(lengths, data.split)):
            self.hold_out_tail(lengths, data.split)
        if data.subset < 1:
            self.words += f", of {data.subset:g} of them at random"
        if not (self.kept & self.train).any() or (data.subset < 1 and self.kept.sum() < 2):
            raise UserError(
                f"data.subset={data.subset:g}: leaves no document of {len(lengths):,} to train on"
            )

    def near(self, lengths: np.ndarray, split: float) -> bool:
        """Whether the characters held out are between a third and three times the share."""
        held = lengths[~self.train].sum() / lengths.sum()
        return split / 3 <= held <= min(3 * split, (1 + split) / 2)

    def hold_out_tail(self, lengths: np.ndarray, split: float) -> None:
        """At the nearest document boundary, or within a document where that is far off."""
        done = lengths.cumsum()
        wanted = int((1 - split) * done[-1])
        boundary = int(np.abs(done - wanted).argmin()) + 1
        self.train = np.arange(len(lengths)) < boundary
        self.words = f"the last {split:g}, at the nearest document boundary"
        if not self.near(lengths, split):
            index = int(np.searchsorted(done, wanted, side="right"))
            self.train = np.arange(len(lengths)) <= index
            self.cut = (index, wanted - int(done[index] - lengths[index]))
            self.words = f"the last {split:g}, cut within a document"

    def share(self, purpose: bytes) -> np.ndarray:
        """For each training document a number from 0 to 1, by seed, purpose and content."""
        key = blake2b(self.salt + purpose, digest_size=8).digest()
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        return splitmix64(content ^ np.frombuffer(key, dtype=np.uint64)[0]) / 2.0**64

    def assign(self, split: str, pieces: Iterator[Piece]) -> Iterator[tuple[str, str, bool]]:
        """(split, text, whole) for each piece that is kept."""
        index, position = 0, 0
        kept, train = self.kept.tobytes(), self.train.tobytes()  # read one by one: no array's work
        for text, whole in pieces:
            if split != "train":
                yield split, text, whole
            elif not kept[index]:
                pass
            elif self.cut is not None and self.cut[0] == index:
                before, after = cut_piece(text, self.cut[1] - position)
                if before:
                    yield "train", before, whole or bool(after)
                if after:
                    yield self.held, after, whole
            elif not train[index]:
                yield self.held, text, whole
            else:
                yield "train", text, whole
            position = 0 if whole else position + len(text)
            index += whole

    def duplicates(self) -> int:
        """Held-out documents that stand in the training documents too, to the letter."""
        content = np.frombuffer(self.scans["train"].hashes, dtype=np.uint64)
        held = [content[self.kept & ~self.train]]
        if "valid" in self.scans:
            held.append(np.frombuffer(self.scans["valid"].hashes, dtype=np.uint64))
        return int(np.isin(np.concatenate(held), content[self.train & self.kept]).sum())


def cut_piece(text: str, place: int) -> tuple[str, str]:
    """The text before and after a place, moved on to the next line or word."""
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
