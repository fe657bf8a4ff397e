"""Compare two runs bit for bit."""

import csv
import json
import logging
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.model import checkpoint


def only_run(root: Path) -> Path:
    """The only visible folder in `root`."""
    (folder,) = (path for path in root.iterdir() if not path.name.startswith("."))
    return folder


def read_metrics(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the speed."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["train/tokens_per_second"]
    return rows


def read_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars without the speed."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports what it purges
    board = EventAccumulator(str(run), size_guidance={"scalars": 0})
    board.Reload()
    names = [name for name in board.Tags()["scalars"] if "per_second" not in name]
    return {name: [(e.step, e.value) for e in board.Scalars(name)] for name in names}


def assert_identical_runs(run: Path, reference: Path) -> None:
    """Compare weights, optimizer, metrics, samples, curves and results; of a sweep, of each job."""
    if (reference / "sweep.csv").exists():
        jobs = sorted(path.name for path in reference.iterdir() if path.is_dir())
        assert jobs == sorted(path.name for path in run.iterdir() if path.is_dir())
        for job in jobs:
            assert_identical_runs(run / job, reference / job)
        return
    actual, expected = (
        checkpoint.read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (run, reference)
    )
    assert actual["global_step"] == expected["global_step"], "steps"
    for key, weight in expected["state_dict"].items():
        assert torch.equal(actual["state_dict"][key], weight), key
    states, expected_states = (c["optimizer_states"][0]["state"] for c in (actual, expected))
    assert states.keys() == expected_states.keys()
    for number, state in expected_states.items():
        for name, value in state.items():
            same = torch.equal(torch.as_tensor(states[number][name]), torch.as_tensor(value))
            assert same, (number, name)
    assert read_metrics(run) == read_metrics(reference), "metrics.csv"
    texts = [
        {p.name: p.read_text(encoding="utf-8") for p in (r / "samples").iterdir()}
        for r in (run, reference)
    ]
    assert texts[0] == texts[1], "samples"
    if list(reference.glob("events*")):
        curves, expected_curves = read_scalars(run), read_scalars(reference)
        assert curves == expected_curves, [
            (name, curves.get(name), points)
            for name, points in expected_curves.items()
            if curves.get(name) != points
        ]
    after = [
        json.loads((path / "summary.json").read_text(encoding="utf-8"))["after"]
        for path in (run, reference)
    ]
    assert after[0] == after[1], "final results"
