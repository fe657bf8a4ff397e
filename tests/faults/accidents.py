"""What can happen to a process, and how it is made to happen."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Accident:
    """Happens in a child process: `arm` prepares it there; or from outside, after some seconds."""

    name: str
    arm: Callable[[], None] = lambda: None
    after: float | None = None


def kill() -> None:
    os.kill(os.getpid(), 9)


def replace(owner: Any, name: str, nth: int, act: Callable[..., Any]) -> None:
    """At its nth call a function is replaced by `act(real, *arguments)`."""
    real, calls = getattr(owner, name), [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            return act(real, *arguments, **named)
        return real(*arguments, **named)

    setattr(owner, name, wrapped)


def in_checkpoint(nth: int) -> None:
    """Dies with part of a checkpoint written."""
    import torch

    def half(real: Callable, content: Any, file: Any) -> None:
        real(content, file)
        file.truncate(file.tell() // 2)
        kill()

    replace(torch, "save", nth, half)


def in_rename(nth: int) -> None:
    """Dies between a finished file and its name."""
    replace(Path, "replace", nth, lambda *_: kill())


def in_metrics(nth: int) -> None:
    """Dies with part of a line of metrics.csv written."""
    import csv

    def part(real: Callable, writer: csv.DictWriter, row: dict) -> None:
        writer.writer.writerow(list(row.values())[:2])
        kill()

    replace(csv.DictWriter, "writerow", nth, part)


def in_corpus(nth: int) -> None:
    """Dies while a corpus is built."""
    from gptlab.data import corpus

    replace(corpus.SplitWriter, "add", 1 + nth % 2, lambda *_: kill())


def disk_full(nth: int) -> None:
    import torch

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace(torch, "save", nth, full)


def metrics_full(nth: int) -> None:
    """The disk is full when a line of metrics.csv is written."""
    import csv

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace(csv.DictWriter, "writerow", nth, full)


def read_error(nth: int) -> None:
    """The disk cannot be read where the tokens are."""
    from gptlab.data.dataloader import TrainingBatches

    def unreadable(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    replace(TrainingBatches, "__getitem__", 2 * nth, unreadable)


def not_finite(nth: int) -> None:
    """A loss that is not a number, once."""
    from gptlab.training import module

    def bad(real: Callable, *arguments: Any) -> Any:
        return real(*arguments) * float("nan")

    replace(module, "summed_cross_entropy", 2 * nth, bad)


def out_of_memory(nth: int) -> None:
    from gptlab.training import module

    def none_left(*_: Any) -> None:
        raise MemoryError

    replace(module, "summed_cross_entropy", 2 * nth, none_left)


INSIDE: dict[str, Callable[[int], None]] = {
    "checkpoint": in_checkpoint,
    "rename": in_rename,
    "metrics": in_metrics,
    "corpus": in_corpus,
    "disk full": disk_full,
    "no line": metrics_full,
    "unreadable": read_error,
    "not finite": not_finite,
    "memory": out_of_memory,
}
# Half of all are plain kills at any moment.
NAMES = [name for pair in zip(INSIDE, ["kill"] * len(INSIDE), strict=True) for name in pair]
NAMES += ["torn", "kill"]


def make(name: str, draw: random.Random, seconds: float) -> Accident:
    if name in INSIDE:
        nth = draw.randint(1, 9)
        return Accident(name, arm=lambda: INSIDE[name](nth))
    return Accident(name, after=draw.uniform(0, seconds))


def tear(unfinished: list[Path], draw: random.Random) -> None:
    """The end of the newest checkpoint is not on the disk, as after a power cut."""
    for path in (path for run in unfinished for path in run.rglob("last.ckpt")):
        content = path.read_bytes()
        path.unlink()  # its other names stay whole
        path.write_bytes(content[: draw.randrange(len(content))])
