"""Two runs, compared bit for bit."""

import csv
import json
import logging
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.model import checkpoint


def only(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if not path.name.startswith("."))
    return folder


def metrics(run: Path) -> list[dict[str, str]]:
    """metrics.csv but for the speed."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["train/tokens_per_second"]
    return rows


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, but for the speed."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it purges
    found = EventAccumulator(str(run), size_guidance={"scalars": 0})
    found.Reload()
    names = [name for name in found.Tags()["scalars"] if "per_second" not in name]
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in names}


def assert_same(run: Path, whole: Path) -> None:
    """Weights, optimizer, metrics, samples, curves, final figures; of a sweep, of each job."""
    if (whole / "sweep.csv").exists():
        jobs = sorted(path.name for path in whole.iterdir() if path.is_dir())
        assert jobs == sorted(path.name for path in run.iterdir() if path.is_dir())
        for job in jobs:
            assert_same(run / job, whole / job)
        return
    ours, theirs = (
        checkpoint.read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (run, whole)
    )
    assert ours["global_step"] == theirs["global_step"], "steps"
    for key, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], weight), key
    mine, other = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    assert mine.keys() == other.keys()
    for number, state in other.items():
        for name, value in state.items():
            same = torch.equal(torch.as_tensor(mine[number][name]), torch.as_tensor(value))
            assert same, (number, name)
    assert metrics(run) == metrics(whole), "metrics.csv"
    texts = [{p.name: p.read_text() for p in (r / "samples").iterdir()} for r in (run, whole)]
    assert texts[0] == texts[1], "samples"
    if list(whole.glob("events*")):
        mine, other = scalars(run), scalars(whole)
        assert mine == other, {n: (mine.get(n), other[n]) for n in other if mine.get(n) != other[n]}
    after = [json.loads((path / "summary.json").read_text())["after"] for path in (run, whole)]
    assert after[0] == after[1], "final figures"
