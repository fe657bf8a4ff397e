"""Training from Python equals the command, and leaves the process as it was."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

import gptlab
from gptlab.training import train as training
from tests.conftest import ROOT, TINY

SMOKE = [*TINY, "profile=smoke"]


def process_state() -> dict[str, Any]:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    loggers = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    return {
        "environment": dict(os.environ),
        "argv": list(sys.argv),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch.get_num_threads(),
        "benchmark": torch.backends.cudnn.benchmark,
        "warnings": list(warnings.filters),
        "logging": list(loggers.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "grad": torch.is_grad_enabled(),
    }


def losses(run: gptlab.Run) -> list[float]:
    return run.metrics["train/loss"].dropna().tolist()


def test_two_runs_equal_the_command_and_leave_the_process_as_it_was(
    command, tmp_path: Path
) -> None:
    settings = [*SMOKE, "model.dropout=0.1"]
    assert command("train", *settings, "run_root=typed").code == 0
    (typed,) = (tmp_path / "typed").iterdir()
    before = process_state()
    runs = [gptlab.train(*settings, trainer={"num_threads": 1}) for _ in range(2)]
    after = process_state()
    assert {key: before[key] == after[key] for key in before} == dict.fromkeys(before, True)
    assert all(losses(run) == losses(gptlab.Run(typed)) for run in runs)
    assert runs[0].folder != runs[1].folder
    # The command and a sweep still work after it.
    assert command("train", "-m", *settings, "seed=1,2", "logger=none").code == 0


@pytest.mark.parametrize("argument", ["model.n_hed=2", "data=tinystory", "model.n_head=5"])
def test_errors_are_those_of_the_command(command, tmp_path: Path, argument: str) -> None:
    with pytest.raises(gptlab.UserError) as caught:
        gptlab.train(argument)
    (shown,) = caught.value._render_traceback_()  # what IPython prints
    assert command("train", argument).err == f"{shown}\n"
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_a_user_error(command, monkeypatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left", "runs/x")

    monkeypatch.setattr(training, "make_trainer", fail)
    with pytest.raises(gptlab.UserError, match=r"^runs/x: No space left on device; "):
        gptlab.train(*SMOKE)


@pytest.mark.parametrize("setting", ["trainer.devices=2", "preflight=only"])
def test_what_python_cannot_do_is_refused(command, tmp_path: Path, setting: str) -> None:
    with pytest.raises(gptlab.UserError, match=setting.partition("=")[0]):
        gptlab.train(*SMOKE, setting)
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_is_returned_and_resumes_exactly(command) -> None:
    stop = {"_target_": "tests.faults.callbacks.StopAtStep", "step": 2, "signal": 2}
    more = [*SMOKE, "trainer.max_steps=4"]
    stopped = gptlab.train(*more, callbacks={"stop": stop})
    assert not stopped.finished and "run.resume()" in stopped._repr_html_()
    with pytest.raises(gptlab.UserError, match="not finished"):
        _ = stopped.summary
    resumed = stopped.resume(callbacks="none")
    assert resumed.folder == stopped.folder and resumed.finished
    assert losses(resumed) == losses(gptlab.train(*more))
    assert gptlab.train(resume=stopped.folder).folder == stopped.folder  # nothing left to do
    with pytest.raises(gptlab.UserError, match="nothing to resume"):
        gptlab.train("resume=latest")


class InterruptSetup(Callback):
    """Press Ctrl-C before the first step."""

    def on_fit_start(self, *_: Any) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_before_the_first_step_leaves_nothing(command, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt = {"_target_": f"{InterruptSetup.__module__}.InterruptSetup"}
    with pytest.raises(KeyboardInterrupt):
        gptlab.train(*SMOKE, callbacks={"interrupt": interrupt})
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "runs").exists()
    result = command("train", *SMOKE, f"+callbacks.interrupt._target_={interrupt['_target_']}")
    assert result.code == 130 and result.err == "\nstopped\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_termination_signal_still_ends_the_process(command) -> None:
    stop = {"_target_": "tests.faults.callbacks.StopAtStep", "step": 1, "signal": signal.SIGTERM}
    with pytest.raises(SystemExit) as caught:
        gptlab.train(*SMOKE, callbacks={"stop": stop})
    assert caught.value.code == 128 + signal.SIGTERM


def test_a_run_trains_in_another_thread(command) -> None:
    runs: list[gptlab.Run] = []
    thread = threading.Thread(target=lambda: runs.append(gptlab.train(*SMOKE)))
    thread.start()
    thread.join()
    assert runs[0].finished


def test_the_entry_is_imported_without_heavy_modules() -> None:
    code = (
        "import gptlab, sys; dir(gptlab); print({'torch', 'hydra', 'lightning'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "set()\n", done.stderr


def test_every_public_name_can_be_imported() -> None:
    import gptlab.training.train

    for name in gptlab.__all__:
        assert callable(getattr(gptlab, name)), name
    with pytest.raises(AttributeError):
        _ = gptlab.trian
