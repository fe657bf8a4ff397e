"""Signals end a run after a step, or at once during work that a resumed run repeats."""

import os
import signal
from types import SimpleNamespace

import pytest

from gptlab.training.callbacks.graceful_shutdown import (
    GracefulShutdown,
    ShutdownRequested,
    StopAtOnce,
)

pytestmark = pytest.mark.fast


@pytest.fixture
def trainer():
    return SimpleNamespace(global_step=0, world_size=1, should_stop=False)


@pytest.fixture
def shutdown(trainer):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    callback = GracefulShutdown()
    callback.on_train_start(trainer, None)
    yield callback
    callback.on_train_end()
    assert handlers == {number: signal.getsignal(number) for number in handlers}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_the_step(shutdown, trainer, number, capsys) -> None:
    shutdown.on_step(trainer, None, None)
    assert not trainer.should_stop
    signal.raise_signal(number)
    assert shutdown.received_signal == number
    assert "stopping after this step" in capsys.readouterr().err
    shutdown.on_step(trainer, None, None)
    assert trainer.should_stop


def test_a_second_signal_stops_within_the_step(shutdown, monkeypatch) -> None:
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    shutdown.handle_signal(signal.SIGINT, None)
    with pytest.raises(StopAtOnce):
        shutdown.handle_signal(signal.SIGTERM, None)
    shutdown.single_process = False  # the other processes would wait for this one forever
    shutdown.handle_signal(signal.SIGTERM, None)
    assert codes == [128 + signal.SIGTERM]


def test_interruptible_work_is_aborted_and_not_started_again(shutdown) -> None:
    done = []
    with pytest.raises(ShutdownRequested), shutdown.interruptible():
        signal.raise_signal(signal.SIGINT)
        done.append("continued")
    with pytest.raises(ShutdownRequested), shutdown.interruptible():
        done.append("started")
    assert not done and not shutdown.may_raise


def test_with_several_processes_a_signal_waits_for_the_step() -> None:
    shutdown = GracefulShutdown()
    trainer = SimpleNamespace(global_step=0, world_size=2)
    shutdown.on_train_start(trainer, None)
    try:
        with shutdown.interruptible():
            shutdown.handle_signal(signal.SIGINT, None)
        assert shutdown.received_signal == signal.SIGINT
    finally:
        shutdown.on_train_end()
