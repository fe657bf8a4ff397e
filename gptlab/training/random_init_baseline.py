"""Train the same classifier from random weights, as a baseline for a pretrained one."""

import os
import re
from dataclasses import replace
from pathlib import Path

from gptlab.config import sweeps
from gptlab.config.schema import FinetuneConfig, TrainConfig
from gptlab.training.run_summary import RunSummary
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError
from gptlab.utils.run_dir import BASELINE_SUFFIX

COMPARED_METRICS = ("accuracy", "f1", "loss")


def wants_baseline(config: TrainConfig) -> bool:
    """Whether a baseline is trained after a run of this configuration."""
    pretrained = config.init_from or config.model.pretrained
    possible = pretrained and not config.from_scratch and config.data.task == "classification"
    if not (config.baseline and possible):
        return False
    if sweeps.is_sweep_job() or config.trainer.devices * config.trainer.num_nodes > 1:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            reason = "no baseline is trained in a sweep or on several devices"
            print_status(f"{reason}; for one: from_scratch=true finetune=all")
        return False
    return True


def baseline_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return the baseline's configuration for the run in `folder`: random weights, all trained."""
    name = re.sub(r"^\d{4}-\d\d-\d\d_\d{6}_", "", folder.name)
    return replace(
        config,
        from_scratch=True,
        baseline_of=folder.name,
        name=f"{name}{BASELINE_SUFFIX}",
        finetune=FinetuneConfig(),  # train all: frozen random weights would be too weak
        resume=None,
    )


def compare_to_baseline(run: Path, baseline: Path, baseline_summary: RunSummary) -> None:
    """Print both results, and add the baseline's to the run's summary if the run still exists."""
    try:
        summary = RunSummary.read(run)
        split = "test" if "test/accuracy" in baseline_summary.after else "valid"
        pairs = {
            name: (summary.after[f"{split}/{name}"], baseline_summary.after[f"{split}/{name}"])
            for name in COMPARED_METRICS
        }
    except (UserError, KeyError):
        print_status(f"{run}: no finished run to compare with")
        return
    summary.after |= {f"random/{name}": value for name, (_, value) in pairs.items()}
    summary.write(run)
    print(f"{split} results of {run.name}, compared to random weights ({baseline.name})")
    for name, (trained, random) in pairs.items():
        print(f"  {name:<10} {trained:.4f}   random weights {random:.4f}")
