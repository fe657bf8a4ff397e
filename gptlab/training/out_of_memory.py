"""Retry with smaller micro-batches after a GPU ran out of memory (detected by utils/errors.py)."""

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from gptlab.config.schema import TrainConfig
from gptlab.training.resume import ResumedRun, reload_run
from gptlab.training.run_dir_setup import current_run_dir
from gptlab.training.run_summary import FinishedRun
from gptlab.utils.console import print_status
from gptlab.utils.device import mps_is_available
from gptlab.utils.errors import is_gpu_out_of_memory

TrainOnce = Callable[[TrainConfig, ResumedRun | None], FinishedRun | None]


def train_with_oom_retry(
    train_once: TrainOnce, config: TrainConfig, resumed: ResumedRun | None
) -> FinishedRun | None:
    """Train; if GPU memory runs out, resume (or restart) the run with smaller micro-batches."""
    while True:
        try:
            return train_once(config, resumed)
        except Exception as error:
            if not is_gpu_out_of_memory(error) or (smaller := halve_micro_batch(config)) is None:
                raise
        # Outside `except`, where the exception would keep the failed step's tensors alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if mps_is_available():
            torch.mps.empty_cache()
        config = smaller
        folder = resumed.folder if resumed else current_run_dir()
        if folder and (folder / "checkpoints").is_dir():
            resumed = reload_run(folder, config)
            config = resumed.config
        position = f"resuming after step {resumed.step:,}" if resumed else "restarting"
        print_status(
            f"out of memory: {position} with data.batch_size={config.data.batch_size} and "
            "proportionally more micro-batches per step (the same loss except for rounding and "
            "dropout)"
        )


def halve_micro_batch(config: TrainConfig) -> TrainConfig | None:
    """Halve the micro-batch (or use the next divisor) and raise accumulation to match.

    Returns None if that is turned off or impossible: with one row, or with several processes,
    where the others would wait forever for the failed one.
    """
    rows, trainer = config.data.batch_size, config.trainer
    if rows == 1 or trainer.devices * trainer.num_nodes > 1 or not trainer.halve_on_out_of_memory:
        return None
    factor = next(n for n in range(2, rows + 1) if rows % n == 0)
    if not trainer.tokens_per_step:  # it sets the accumulation
        accumulate = trainer.accumulate_grad_batches * factor
        trainer = replace(trainer, accumulate_grad_batches=accumulate)
    return replace(config, data=replace(config.data, batch_size=rows // factor), trainer=trainer)
