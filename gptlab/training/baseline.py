"""The same classifier from random weights, trained beside one that begins with others' weights:
without it the figures of the first say little."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab import sweeps
from gptlab.commands import TrainConfig
from gptlab.config import FinetuneConfig
from gptlab.files import say
from gptlab.runs import BASELINE
from gptlab.training.summary import Summary

COMPARED = ("accuracy", "f1", "loss")


@dataclass
class Finished:
    """A run that has ended."""

    folder: Path
    summary: Summary


def is_wanted(config: TrainConfig) -> bool:
    """Whether a run of this configuration has a baseline run after it."""
    begins = config.init_from or config.model.pretrained
    if config.data.task != "classification" or not begins or config.random_weights:
        return False
    several = config.trainer.devices * config.trainer.num_nodes > 1
    if config.baseline and (sweeps.is_job() or several):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say("nothing is trained beside this run; do it with random_weights=true finetune=all")
        return False
    return config.baseline


def baseline_of(config: TrainConfig, folder: Path) -> TrainConfig:
    """The run beside the one in `folder`: the same in all but its weights, all of them trained,
    for random ones that stay as they are would be a straw man."""
    name = re.sub(r"^\d{4}-\d\d-\d\d_\d{6}_", "", folder.name)
    return replace(
        config,
        random_weights=True,
        baseline_of=folder.name,
        name=f"{name}{BASELINE}",
        finetune=FinetuneConfig(),
        resume=None,
    )


def compare(first: Path, folder: Path, random: Summary) -> None:
    """Says how the first run and its baseline did, and notes the baseline's figures in the first
    one's summary, if it is still there."""
    try:
        summary = Summary(**json.loads((first / "summary.json").read_text(encoding="utf-8")))
        split = "test" if "test/accuracy" in random.after else "valid"
        beside = {f"random/{name}": random.after[f"{split}/{name}"] for name in COMPARED}
        told = [(name, summary.after[f"{split}/{name}"]) for name in COMPARED]
    except (OSError, ValueError, TypeError, KeyError):
        say(f"{first}: no finished run to compare with")
        return
    summary.after |= beside
    summary.write(first)
    print(f"{split}: {first.name}, and beside it random weights, in {folder.name}")
    for name, ours in told:
        print(f"  {name:<10} {ours:.4f}   random weights {beside[f'random/{name}']:.4f}")
