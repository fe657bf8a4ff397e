"""What happens beside the steps, in optimizer steps; and the end that a signal asks for."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gptlab.training.run_plan import RunPlan


class StepCallback(Callback):
    """Calls `on_step` once an optimizer step, after its last micro-batch."""

    step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (step := trainer.global_step) > self.step:
            self.step = step
            self.on_step(trainer, module, batch)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """After optimizer step number `self.step`, counted from 1."""


class ShutdownRequested(Exception):
    """Raised by a signal in the middle of what can be done again: validation, samples."""


class GracefulShutdown(StepCallback):
    """Ctrl-C and SIGTERM end the run after the step at hand; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None  # the one that came
        self.before: dict[int, Any] = {}  # the handlers to put back
        self.can_raise = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.alone = trainer.world_size == 1
        # Here, not in setup: Lightning installs handlers of its own in between.
        self.before = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}

    def receive(self, number: int, _frame: Any) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print("\nstopping after this step; again to leave at once", file=sys.stderr, flush=True)
        if self.can_raise:
            self.can_raise = False
            raise ShutdownRequested

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal need not wait for the end: what is done here can be done again."""
        if self.signal is not None and self.alone:
            raise ShutdownRequested
        self.can_raise = self.alone  # several processes must stop after the same step
        try:
            yield
        finally:
            self.can_raise = False

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        asked = self.signal is not None
        if trainer.world_size > 1:  # a signal to one process stops all, after the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        trainer.should_stop = trainer.should_stop or asked

    def on_validation_start(self, *_: Any) -> None:
        self.validating = self.at_once()
        self.validating.__enter__()

    def on_validation_end(self, *_: Any) -> None:
        self.validating.__exit__(None, None, None)

    def on_train_end(self, *_: Any) -> None:
        self.can_raise = False
        for number, handler in self.before.items():
            signal.signal(number, handler)

    on_exception = on_train_end


def epoch_ended(plan: RunPlan, step: int) -> int | None:
    """The number of the epoch whose last row this step trained on, counted from 1."""
    after = step * plan.shape.rows_per_step // plan.rows_per_epoch
    before = (step - 1) * plan.shape.rows_per_step // plan.rows_per_epoch
    return after if after > before else None
