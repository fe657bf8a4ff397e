"""Samples on a terminal or into a pipe, as they are written."""

import shutil
import sys
import unicodedata
from typing import Protocol

from gptlab.generation.sample import Sample
from gptlab.utils.console import print_status

NARROWEST = 30  # characters of a column
BETWEEN = " │ "


class Display(Protocol):
    """Told after each token, and of the ended samples in the end.

    Texts go to standard output, all else to standard error.
    """

    def update(self, samples: list[Sample]) -> None: ...

    def finish(self, samples: list[Sample]) -> None: ...


class StreamDisplay:
    """The first sample as it comes; further ones follow, each whole."""

    def __init__(self, opening: str):
        self.opening = opening
        self.shown = 0
        print(opening, end="", flush=True)

    def update(self, samples: list[Sample]) -> None:
        for sample in samples[:1]:
            print(sample.text[self.shown :], end="", flush=True)
            self.shown = len(sample.text)

    def finish(self, samples: list[Sample]) -> None:
        self.update(samples[:1])
        print(flush=True)
        for number, sample in enumerate(samples[1:], start=2):
            print_status(f"\n— sample {number} —")
            print(self.opening + sample.text, flush=True)


class LineWrapper:
    """A growing text in lines of a width: what has become a line never changes."""

    def __init__(self, width: int):
        self.width = width
        self.lines: list[str] = []
        self.begins = 0  # where in the text the open line does

    def take(self, text: str, whole: bool) -> None:
        """The text as far as it is; whole: nothing will follow."""
        while True:
            fits = fitting(text, self.begins, self.width)
            rest = text[self.begins : self.begins + fits + 1]
            newline = rest.find("\n")
            space = rest.rfind(" ") if len(rest) > fits else -1
            if newline >= 0:
                length, skipped = newline, 1
            elif space > 0:
                length, skipped = space, 1
            elif len(rest) > fits:
                length, skipped = fits, 0
            else:
                break
            self.lines.append(rest[:length])
            self.begins += length + skipped
        if whole and rest:
            self.lines.append(rest)
            self.begins += len(rest)


def cell_width(character: str) -> int:
    """Columns of a terminal that a character takes: two for Chinese and most emoji, none for what
    joins the one before."""
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1


def fitting(text: str, begin: int, width: int) -> int:
    """How many characters from `begin` on take no more than `width` cells; at least one."""
    taken = 0
    for count, character in enumerate(text[begin : begin + 4 * width]):
        taken += cell_width(character)
        if taken > width:
            return max(1, count)
    return min(len(text) - begin, 4 * width)


def padded(text: str, width: int) -> str:
    return text + " " * (width - sum(map(cell_width, text)))


class ColumnDisplay:
    """Samples side by side. A row is shown when each of them has a line for it, or has ended."""

    def __init__(self, opening: str, samples: int, width: int):
        self.opening = opening
        self.side_by_side = min(samples, columns_that_fit(width))
        self.width = (width + len(BETWEEN)) // self.side_by_side - len(BETWEEN)
        self.begin(0, self.side_by_side)

    def begin(self, first: int, last: int) -> None:
        self.columns = [LineWrapper(self.width) for _ in range(first, last)]
        self.shown = 0
        titles = [f"— sample {i + 1} —".ljust(self.width) for i in range(first, last)]
        print_status((" " * len(BETWEEN)).join(titles).rstrip())

    def update(self, samples: list[Sample]) -> None:
        going = []
        for sample, column in zip(samples, self.columns, strict=False):
            column.take(self.opening + sample.text, sample.finish_reason is not None)
            if sample.finish_reason is None:
                going.append(len(column.lines))
        longest = max(len(column.lines) for column in self.columns)
        for row in range(self.shown, min(going, default=longest)):
            parts = [column.lines[row : row + 1] or [""] for column in self.columns]
            print(BETWEEN.join(padded(p, self.width) for (p,) in parts).rstrip(), flush=True)
            self.shown = row + 1

    def finish(self, samples: list[Sample]) -> None:
        """The rest, and the samples for which there was no place beside the first."""
        self.update(samples)
        for first in range(self.side_by_side, len(samples), self.side_by_side):
            more = samples[first : first + self.side_by_side]
            print(flush=True)
            self.begin(first, first + len(more))
            self.update(more)


def columns_that_fit(width: int) -> int:
    return max(1, (width + len(BETWEEN)) // (NARROWEST + len(BETWEEN)))


def make_display(opening: str, samples: int) -> Display:
    """Columns for several samples on a terminal that is wide enough; otherwise one by one."""
    width = shutil.get_terminal_size().columns
    if samples > 1 and sys.stdout.isatty() and columns_that_fit(width) > 1:
        return ColumnDisplay(opening, samples, width)
    return StreamDisplay(opening)
