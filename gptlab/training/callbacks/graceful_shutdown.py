"""Stop a run on Ctrl-C or SIGTERM so that it can be resumed."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.utils.console import print_status
from gptlab.utils.system import SHUTDOWN_SIGNALS


class ShutdownRequested(Exception):
    """Raised by a signal during interruptible work: validation, sampling."""


class StopAtOnce(BaseException):
    """Raised by a second signal, perhaps within a step: nothing more is saved."""


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning exits instead: before the first step, after the last.

    Within steps, GracefulShutdown handles signals.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)  # Lightning made the process ignore it
            raise KeyboardInterrupt from None
        raise


class GracefulShutdown(StepCallback):
    """Finish the current step after a first Ctrl-C or SIGTERM; stop at once after a second one."""

    def __init__(self) -> None:
        self.received_signal: int | None = None
        self.previous_handlers: dict[int, Any] = {}
        self.may_raise = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.single_process = trainer.world_size == 1
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals in the main thread only
        # Not in setup(): Lightning installs its own handlers between setup() and here.
        for number in SHUTDOWN_SIGNALS:
            self.previous_handlers[number] = signal.signal(number, self.handle_signal)

    def handle_signal(self, number: int, _frame: Any) -> None:
        if self.received_signal is not None:
            if self.single_process:  # a notebook's process has other work than this run
                raise StopAtOnce
            os._exit(128 + number)
        self.received_signal = number
        print_status("\nstopping after this step; press Ctrl-C again to stop at once")
        if self.may_raise:
            self.may_raise = False
            raise ShutdownRequested

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal abort interruptible work, which a resumed run repeats.

        Several processes must stop after the same step, so there the signal waits.
        """
        if self.received_signal is not None and self.single_process:
            raise ShutdownRequested
        self.may_raise = self.single_process
        try:
            yield
        finally:
            self.may_raise = False

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        stop = self.received_signal is not None
        if trainer.world_size > 1:  # a signal to one process stops all of them
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop

    def on_validation_start(self, *_: Any) -> None:
        self.validation_context = self.interruptible()
        self.validation_context.__enter__()

    def on_validation_end(self, *_: Any) -> None:
        self.validation_context.__exit__(None, None, None)

    def on_train_end(self, *_: Any) -> None:
        self.may_raise = False
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
