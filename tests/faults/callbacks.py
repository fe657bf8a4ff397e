"""Callbacks that stop a run at a chosen moment, as an accident would; and one that watches."""

import os
from typing import Any

from lightning.pytorch import Callback

from gptlab.utils.device import resident_memory


class Accident(Exception):
    """Stands for anything that ends a process: nothing that it would still do is done."""


class Stop(Callback):
    """Raises, or sends a signal to its own process, at a micro-batch of training or validation."""

    def __init__(self, step: int, part: int = 0, when: str = "training", signal: int | None = None):
        self.step = step
        self.part = part
        self.when = when
        self.signal = signal
        self.seen = 0

    def act(self) -> None:
        self.when = "done"
        if self.signal is None:
            raise Accident
        os.kill(os.getpid(), self.signal)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen = self.seen + 1 if trainer.global_step == self.step else 0
        if self.when == "training" and self.seen == self.part + 1:
            self.act()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.when == "validation" and trainer.global_step == self.step:
            self.act()


SEEN: list[int] = []  # bytes that the process held, every 500 steps


class Watch(Callback):
    """Notes what the process holds, now and then."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % 500 == 0:
            SEEN.append(resident_memory())
