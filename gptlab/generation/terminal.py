"""Show samples on a terminal, or write them into a pipe, while they grow.

A display is updated after each token, and finished with the samples that were selected. Texts go to
standard output, everything else to standard error.
"""

import shutil
import sys
import unicodedata

from gptlab.generation.sample import Sample
from gptlab.utils.console import print_status

MIN_COLUMN_WIDTH = 30  # terminal cells
SEPARATOR = " │ "


class StreamDisplay:
    """Print the first sample while it grows, and the others at the end."""

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.printed = 0  # characters of the first sample
        print(prompt, end="", flush=True)

    def update(self, samples: list[Sample]) -> None:
        for sample in samples[:1]:
            print(sample.text[self.printed :], end="", flush=True)
            self.printed = len(sample.text)

    def finish(self, samples: list[Sample]) -> None:
        self.update(samples)
        print(flush=True)
        for number, sample in enumerate(samples[1:], start=2):
            print_status(f"\n— sample {number} —")
            print(self.prompt + sample.text, flush=True)


class LineWrapper:
    """Wrap a growing text into lines of a fixed width; a finished line never changes."""

    def __init__(self, width: int):
        self.width = width
        self.lines: list[str] = []
        self.start = 0  # where in the text the unfinished line starts

    def update(self, text: str, is_complete: bool) -> None:
        """Append the lines that are now certain; if the text is complete, all of them."""
        while True:
            fitting = fitting_length(text, self.start, self.width)
            rest = text[self.start : self.start + fitting + 1]
            newline = rest.find("\n")
            space = rest.rfind(" ") if len(rest) > fitting else -1
            if newline >= 0 or space > 0:
                length, skipped = (newline if newline >= 0 else space), 1
            elif len(rest) > fitting:
                length, skipped = fitting, 0
            else:
                break
            self.lines.append(rest[:length])
            self.start += length + skipped
        if is_complete and rest:
            self.lines.append(rest)
            self.start += len(rest)


def cell_width(character: str) -> int:
    """Return a character's terminal cells: 2 for Chinese and most emoji, 0 for combining marks."""
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1


def fitting_length(text: str, start: int, width: int) -> int:
    """Return how many characters from `start` fit into `width` cells, but at least one."""
    cells = 0
    for count, character in enumerate(text[start : start + 4 * width]):
        cells += cell_width(character)
        if cells > width:
            return max(1, count)
    return min(len(text) - start, 4 * width)


def pad(text: str, width: int) -> str:
    return text + " " * (width - sum(map(cell_width, text)))


class ColumnDisplay:
    """Print samples side by side, row by row, as soon as each has a line or has finished."""

    def __init__(self, prompt: str, num_samples: int, terminal_width: int):
        self.prompt = prompt
        self.num_columns = min(num_samples, max_columns(terminal_width))
        self.width = (terminal_width + len(SEPARATOR)) // self.num_columns - len(SEPARATOR)
        self.start_columns(range(self.num_columns))

    def start_columns(self, numbers: range) -> None:
        self.columns = [LineWrapper(self.width) for _ in numbers]
        self.printed_rows = 0
        titles = [f"— sample {number + 1} —".ljust(self.width) for number in numbers]
        print_status((" " * len(SEPARATOR)).join(titles).rstrip())

    def update(self, samples: list[Sample]) -> None:
        unfinished = []  # lines of each unfinished sample
        for sample, column in zip(samples, self.columns, strict=False):
            column.update(self.prompt + sample.text, sample.finish_reason is not None)
            if sample.finish_reason is None:
                unfinished.append(len(column.lines))
        longest = max(len(column.lines) for column in self.columns)
        for row in range(self.printed_rows, min(unfinished, default=longest)):
            cells = ["".join(column.lines[row : row + 1]) for column in self.columns]
            print(SEPARATOR.join(pad(cell, self.width) for cell in cells).rstrip(), flush=True)
            self.printed_rows = row + 1

    def finish(self, samples: list[Sample]) -> None:
        """Print the remaining rows, and then the samples that did not fit side by side."""
        self.update(samples)
        for first in range(self.num_columns, len(samples), self.num_columns):
            others = samples[first : first + self.num_columns]
            print(flush=True)
            self.start_columns(range(first, first + len(others)))
            self.update(others)


def max_columns(terminal_width: int) -> int:
    return max(1, (terminal_width + len(SEPARATOR)) // (MIN_COLUMN_WIDTH + len(SEPARATOR)))


def make_display(prompt: str, num_samples: int) -> StreamDisplay | ColumnDisplay:
    """Return columns for several samples on a wide terminal, otherwise a plain stream."""
    width = shutil.get_terminal_size().columns
    if num_samples > 1 and sys.stdout.isatty() and max_columns(width) > 1:
        return ColumnDisplay(prompt, num_samples, width)
    return StreamDisplay(prompt)
