"""How much of what a model writes stands word for word in its training text?"""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRAM = 10  # tokens


@dataclass
class Copied:
    """Over several texts: longest verbatim spans in tokens, and the share of verbatim 10-grams."""

    longest: int
    mean_longest: float
    grams: float


class TokenIndex:
    """Finds runs of tokens in a token file, read through the memory map: memory stays bounded."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.dtype = np.dtype(dtype)
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def holds(self, tokens: list[int]) -> bool:
        """Whether these tokens follow each other anywhere in the file."""
        wanted = np.array(tokens, dtype=self.dtype).tobytes()
        place = self.map.find(wanted)
        while place != -1 and place % self.dtype.itemsize:  # between two tokens
            place = self.map.find(wanted, place + 1)
        return place != -1

    def longest_span(self, tokens: list[int]) -> int:
        """The length of the longest run of `tokens` that the file holds."""
        longest = 0
        for start in range(len(tokens)):
            while start + longest < len(tokens) and self.holds(tokens[start : start + longest + 1]):
                longest += 1
        return longest

    def copied(self, texts: list[list[int]]) -> Copied:
        spans = [self.longest_span(tokens) for tokens in texts]
        grams = [
            self.holds(tokens[start : start + GRAM])
            for tokens in texts
            for start in range(len(tokens) - GRAM + 1)
        ]
        return Copied(
            longest=max(spans, default=0),
            mean_longest=sum(spans) / max(1, len(spans)),
            grams=sum(grams) / max(1, len(grams)),
        )
