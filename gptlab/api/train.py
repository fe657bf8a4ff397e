"""Train from Python: `gptlab.train("experiment=tiny_char", seed=3)`."""

import contextlib
import logging
import os
import random
import signal
import warnings
from collections.abc import Iterator
from typing import Any

from gptlab.api.overrides import make_overrides
from gptlab.api.run import Run
from gptlab.config import sweeps
from gptlab.config.cli import composed_config, set_torch_defaults, trust_typed
from gptlab.config.input_files import check_inputs
from gptlab.config.schema import TrainConfig
from gptlab.utils.errors import UserError, one_line_errors
from gptlab.utils.program import command_line


def train(*overrides: str, **keys: Any) -> Run:
    """Train a model as `python train.py` does; return its run.

        run = gptlab.train("experiment=tiny_char", seed=3, model={"n_layer": 2})

    `overrides` are written as on the command line. `keys` have Python values: `model="toy"` chooses
    a group, `model={"n_layer": 2}` sets keys of a group, `prompt="any text"` any other key.

    Interrupting the kernel (or Ctrl-C) stops the run after the current step: it is returned with
    `finished` False, and `run.resume()` continues it. Raises UserError for whatever the command
    would refuse.
    """
    arguments, command = make_overrides("train", overrides, keys)
    set_torch_defaults()
    with one_line_errors("train"), composed_config("train", arguments) as config:
        trust_typed(config)
        check_inputs(config)
        with preserved_process_state():
            os.environ[sweeps.COMMAND_ENV] = command
            return train_config(config)


def train_config(config: TrainConfig) -> Run:
    from gptlab.training.resume import NothingToResume
    from gptlab.training.run_dir_setup import current_run_dir
    from gptlab.training.train import RunInterrupted, train_run

    if config.trainer.devices * config.trainer.num_nodes > 1:
        several = f"for several, type `{command_line('train', 'trainer.devices=…')}`"
        raise UserError(f"trainer.devices: Python trains on one device; {several}")
    if config.preflight == "only":
        command = command_line("train", "preflight=only")
        raise UserError(f"preflight=only: makes no run; type `{command}`")
    try:
        finished = train_run(config)
    except NothingToResume as reason:
        if reason.folder is None:
            raise UserError(str(reason)) from None
        return Run(reason.folder)
    except RunInterrupted as stop:
        if stop.code != 128 + signal.SIGINT:
            raise
        return Run(stop.folder)
    except KeyboardInterrupt:  # in the final evaluation, which `resume` repeats
        folder = current_run_dir()
        if folder is None or not folder.is_dir():
            raise
        return Run(folder)
    assert finished is not None
    return Run(finished.folder)


@contextlib.contextmanager
def preserved_process_state() -> Iterator[None]:
    """Restore what a run changes: environment, signals, random states, torch, log filters."""
    from gptlab.training.trainer import SILENCED_LOGGERS

    environment, loggers = dict(os.environ), [logging.getLogger(n) for n in SILENCED_LOGGERS]
    filters = [list(logger.filters) for logger in loggers]
    try:
        with warnings.catch_warnings(), preserved_random_states(), preserved_torch_settings():
            yield
    finally:
        sweeps.free_memory()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ |= environment
        for logger, each in zip(loggers, filters, strict=True):
            logger.filters[:] = each


@contextlib.contextmanager
def preserved_random_states() -> Iterator[None]:
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(gpus):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def preserved_torch_settings() -> Iterator[None]:
    import torch

    deterministic: Any = torch.utils.deterministic
    exact = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, threads = deterministic.fill_uninitialized_memory, torch.get_num_threads()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(exact, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
