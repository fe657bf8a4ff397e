"""The same classifier from random weights, trained beside one that begins with others' weights:
without it the figures of the first say little."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab import sweeps
from gptlab.config import FinetuneConfig, TrainConfig
from gptlab.files import say
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
    if config.data.task != "classification" or not begins or not config.baseline:
        return False
    if sweeps.is_job() or config.trainer.devices * config.trainer.num_nodes > 1:
        say("no random weights are trained beside this run: do that with random_weights=true")
        return False
    return not config.random_weights


def baseline_of(config: TrainConfig, folder: Path) -> TrainConfig:
    """The run beside the one in `folder`: the same in all but its weights, all of them trained,
    for random ones that stay as they are would be a straw man."""
    name = re.sub(r"^\d{4}-\d\d-\d\d_\d{6}_", "", folder.name)
    return replace(
        config,
        random_weights=True,
        name=f"{name}_random",
        finetune=FinetuneConfig(),
        resume=None,
    )


def compare(run: Finished, random: Finished) -> None:
    """Says how the two did, and notes the baseline's figures in the first run's summary."""
    split = "test" if "test/accuracy" in run.summary.after else "valid"
    beside = {f"random/{n}": random.summary.after[f"{split}/{n}"] for n in COMPARED}
    run.summary.after |= beside
    run.summary.write(run.folder)
    print(f"{split}: this run beside the same model from random weights ({random.folder.name})")
    for name in COMPARED:
        ours, theirs = run.summary.after[f"{split}/{name}"], beside[f"random/{name}"]
        print(f"  {name:<10} {ours:.4f}   random weights {theirs:.4f}")
