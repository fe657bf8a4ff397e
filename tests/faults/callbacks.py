"""Callbacks that stop a run at a chosen moment, as a crash would, or watch its memory."""

import signal
from typing import Any

from lightning.pytorch import Callback

from gptlab.utils.device import resident_memory


class SimulatedCrash(Exception):
    """Ends a run as a crash would: nothing that it still had to do is done."""


class StopAtStep(Callback):
    """Raise, or send a signal to this process, at a micro-batch of training or validation."""

    def __init__(self, step: int, part: int = 0, when: str = "training", signal: int | None = None):
        self.step = step  # completed optimizer steps
        self.part = part  # the micro-batch of the next step, counted from 0
        self.when = when  # training | validation
        self.signal = signal  # None: raise SimulatedCrash
        self.micro_batches = 0  # of this step

    def stop(self) -> None:
        self.when = "done"
        if self.signal is None:
            raise SimulatedCrash
        signal.raise_signal(self.signal)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        at_step = trainer.global_step == self.step
        self.micro_batches = self.micro_batches + 1 if at_step else 0
        if self.when == "training" and self.micro_batches == self.part + 1:
            self.stop()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.when == "validation" and trainer.global_step == self.step:
            self.stop()


MEMORY_SAMPLES: list[int] = []  # bytes that the process held, every 500 steps


class MemoryWatcher(Callback):
    """Record how much memory the process holds."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % 500 == 0:
            MEMORY_SAMPLES.append(resident_memory())
