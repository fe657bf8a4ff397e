"""Samples on a terminal or into a pipe, as they are written."""

import shutil
import sys
import textwrap
from typing import Protocol

from gptlab.files import say
from gptlab.generation.text import Sample

NARROWEST = 30  # characters of a column
BETWEEN = " │ "


class Display(Protocol):
    """Told after each token; texts go to standard output, all else to standard error."""

    def update(self, samples: list[Sample]) -> None: ...

    def end(self, samples: list[Sample]) -> None: ...


class Stream:
    """The first sample as it comes; further ones follow, each whole."""

    def __init__(self, opening: str):
        self.opening = opening
        self.shown = 0
        print(opening, end="", flush=True)

    def update(self, samples: list[Sample]) -> None:
        print(samples[0].text[self.shown :], end="", flush=True)
        self.shown = len(samples[0].text)

    def end(self, samples: list[Sample]) -> None:
        print(flush=True)
        for number, sample in enumerate(samples[1:], start=2):
            say(f"\n— sample {number} —")
            print(self.opening + sample.text, flush=True)


class Columns:
    """Samples side by side. A row of lines is shown when none of them can change any more."""

    def __init__(self, opening: str, samples: int, width: int):
        self.opening = opening
        self.side_by_side = min(samples, columns_that_fit(width))
        self.width = (width + len(BETWEEN)) // self.side_by_side - len(BETWEEN)
        self.shown = 0
        self.titles(0, self.side_by_side)

    def titles(self, first: int, last: int) -> None:
        titles = [f"— sample {i + 1} —".ljust(self.width) for i in range(first, last)]
        say((" " * len(BETWEEN)).join(titles).rstrip())

    def update(self, samples: list[Sample]) -> None:
        self.show(samples[: self.side_by_side])

    def show(self, samples: list[Sample]) -> None:
        texts = [self.lines(sample) for sample in samples]
        # The last line may grow, or lose its last word to the next.
        certain = min(
            (len(t) - 1 for t, s in zip(texts, samples, strict=True) if s.ended is None),
            default=max(map(len, texts)),
        )
        for row in range(self.shown, certain):
            parts = [text[row] if row < len(text) else "" for text in texts]
            print(BETWEEN.join(part.ljust(self.width) for part in parts).rstrip(), flush=True)
        self.shown = max(self.shown, certain)

    def lines(self, sample: Sample) -> list[str]:
        paragraphs = (self.opening + sample.text).split("\n")
        wrapped = (textwrap.wrap(p, self.width) or [""] for p in paragraphs)
        return [line for lines in wrapped for line in lines]

    def end(self, samples: list[Sample]) -> None:
        """The rest, and the samples for which there was no place beside the first."""
        for sample in samples:
            if sample.ended is None:
                sample.end("interrupted")
        self.show(samples[: self.side_by_side])
        for first in range(self.side_by_side, len(samples), self.side_by_side):
            more = samples[first : first + self.side_by_side]
            self.shown = 0
            print(flush=True)
            self.titles(first, first + len(more))
            self.show(more)


def columns_that_fit(width: int) -> int:
    return max(1, (width + len(BETWEEN)) // (NARROWEST + len(BETWEEN)))


def make_display(opening: str, samples: int) -> Display:
    """Columns for several samples on a terminal that is wide enough; otherwise one by one."""
    width = shutil.get_terminal_size().columns
    if samples > 1 and sys.stdout.isatty() and columns_that_fit(width) > 1:
        return Columns(opening, samples, width)
    return Stream(opening)
