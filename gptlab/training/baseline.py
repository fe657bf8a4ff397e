"""The same classifier from random weights, trained beside one that begins with others' weights:
without it the figures of the first say little."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.config import sweeps
from gptlab.config.schema import FinetuneConfig, TrainConfig
from gptlab.training.run_summary import RunSummary
from gptlab.utils.console import print_status
from gptlab.utils.run_dir import BASELINE_SUFFIX

COMPARED_FIGURES = ("accuracy", "f1", "loss")


@dataclass
class FinishedRun:
    """A run that has ended."""

    folder: Path
    summary: RunSummary


def wants_baseline(config: TrainConfig) -> bool:
    """Whether a run of this configuration has a baseline run after it."""
    begins = config.init_from or config.model.pretrained
    if config.data.task != "classification" or not begins or config.from_scratch:
        return False
    several = config.trainer.devices * config.trainer.num_nodes > 1
    if config.baseline and (sweeps.is_sweep_job() or several):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print_status(
                "nothing is trained beside this run; do it with from_scratch=true finetune=all"
            )
        return False
    return config.baseline


def baseline_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """The run beside the one in `folder`: the same in all but its weights, all of them trained,
    for random ones that stay as they are would be a straw man."""
    name = re.sub(r"^\d{4}-\d\d-\d\d_\d{6}_", "", folder.name)
    return replace(
        config,
        from_scratch=True,
        baseline_of=folder.name,
        name=f"{name}{BASELINE_SUFFIX}",
        finetune=FinetuneConfig(),
        resume=None,
    )


def compare_to_baseline(first: Path, folder: Path, random: RunSummary) -> None:
    """Says how the first run and its baseline did, and notes the baseline's figures in the first
    one's summary, if it is still there."""
    try:
        summary = RunSummary(**json.loads((first / "summary.json").read_text(encoding="utf-8")))
        split = "test" if "test/accuracy" in random.after else "valid"
        beside = {f"random/{name}": random.after[f"{split}/{name}"] for name in COMPARED_FIGURES}
        told = [(name, summary.after[f"{split}/{name}"]) for name in COMPARED_FIGURES]
    except (OSError, ValueError, TypeError, KeyError):
        print_status(f"{first}: no finished run to compare with")
        return
    summary.after |= beside
    summary.write(first)
    print(f"{split}: {first.name}, and beside it random weights, in {folder.name}")
    for name, ours in told:
        print(f"  {name:<10} {ours:.4f}   random weights {beside[f'random/{name}']:.4f}")
