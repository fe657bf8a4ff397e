"""Faults that can happen to a training process, and how to inject them."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Fault:
    """A fault that `arm` prepares within the child process, or a kill `after` some seconds."""

    name: str
    arm: Callable[[], None] = lambda: None
    after: float | None = None


def kill() -> None:
    os.kill(os.getpid(), 9)


def replace_call(owner: Any, name: str, nth: int, act: Callable[..., Any]) -> None:
    """Replace the nth call of a function by `act(real, *arguments)`."""
    real, calls = getattr(owner, name), [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            return act(real, *arguments, **named)
        return real(*arguments, **named)

    setattr(owner, name, wrapped)


def in_checkpoint(nth: int) -> None:
    """Die while a checkpoint is being written."""
    import torch

    def half(real: Callable, content: Any, file: Any) -> None:
        real(content, file)
        file.truncate(file.tell() // 2)
        kill()

    replace_call(torch, "save", nth, half)


def in_rename(nth: int) -> None:
    """Die between writing a file or folder and renaming it."""
    replace_call(os, "replace", nth, lambda *_: kill())


def in_metrics(nth: int) -> None:
    """Die within a line of metrics.csv."""
    import csv

    def part(real: Callable, writer: csv.DictWriter, row: dict) -> None:
        writer.writer.writerow(list(row.values())[:2])
        kill()

    replace_call(csv.DictWriter, "writerow", nth, part)


def in_corpus(nth: int) -> None:
    """Die while a corpus is being built."""
    from gptlab.data import corpus

    replace_call(corpus.SplitWriter, "add", 1 + nth % 2, lambda *_: kill())


def disk_full(nth: int) -> None:
    import torch

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace_call(torch, "save", nth, full)


def metrics_full(nth: int) -> None:
    """Fill the disk at a line of metrics.csv."""
    import csv

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace_call(csv.DictWriter, "writerow", nth, full)


def read_error(nth: int) -> None:
    """Fail to read the tokens from the disk."""
    from gptlab.data.dataloader import TrainingBatches

    def unreadable(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    replace_call(TrainingBatches, "__getitem__", 2 * nth, unreadable)


def not_finite(nth: int) -> None:
    """Make one loss NaN."""
    from gptlab.model.gpt import GPT

    def bad(real: Callable, *arguments: Any) -> Any:
        return real(*arguments) * float("nan")

    replace_call(GPT, "forward", 2 * nth, bad)


def out_of_memory(nth: int) -> None:
    from gptlab.model.gpt import GPT

    def fail(*_: Any) -> None:
        raise MemoryError

    replace_call(GPT, "forward", 2 * nth, fail)


INJECTORS: dict[str, Callable[[int], None]] = {
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
# Every second fault is a plain kill at any moment.
NAMES = [name for pair in zip(INJECTORS, ["kill"] * len(INJECTORS), strict=True) for name in pair]
NAMES += ["torn", "kill"]


def make_fault(name: str, random_source: random.Random, seconds: float) -> Fault:
    if name in INJECTORS:
        nth = random_source.randint(1, 9)
        return Fault(name, arm=lambda: INJECTORS[name](nth))
    return Fault(name, after=random_source.uniform(0, seconds))


def tear_checkpoints(unfinished: list[Path], random_source: random.Random) -> None:
    """Cut the end off the newest checkpoint, as a power cut may."""
    for path in (path for run in unfinished for path in run.rglob("last.ckpt")):
        content = path.read_bytes()
        path.unlink()  # its other names stay intact
        path.write_bytes(content[: random_source.randrange(len(content))])
