"""What is kept of runs: their settings, curves, samples and checkpoints.

A run that trains writes these files while they are read.
"""

import contextlib
import csv
import functools
import json
import math
from pathlib import Path
from typing import Any

import yaml

from gptlab import runs
from gptlab.app.models import Shelf

POINTS = 500  # of a curve: more than a screen can show is averaged
CURVES = {
    "train": "train/loss",
    "valid": "valid/loss",
    "best_possible": "valid/best_possible",
    "accuracy": "valid/accuracy",
}
SAMPLES = 20  # the latest so many files
LARGEST = 10_000  # characters of a file of samples


def overview(shelf: Shelf) -> list[dict[str, Any]]:
    """All runs with the little that tells them apart, the latest first."""
    given = [{"name": name, "kind": shelf.kinds.get(name), "given": True} for name in shelf.given]
    return given + [summary(name, folder) for name, folder in shelf.runs().items()]


def summary(name: str, folder: Path) -> dict[str, Any]:
    config, told = read_config(folder), read_json(folder / "summary.json")
    model = config.get("model") or {}
    losses = [loss for _, loss in read_curves(folder)["valid"]]
    return {
        "name": name,
        "kind": kind(config),
        "training": not runs.finished(folder) and runs.in_use(folder),
        "finished": runs.finished(folder),
        "began": told.get("began"),
        "steps": told.get("steps"),
        "parameters": told.get("parameters"),
        "loss": min(losses, default=None),
        "model": {key: model.get(key) for key in ("n_layer", "n_head", "d_model")},
        "data": (config.get("data") or {}).get("source"),
    }


def details(shelf: Shelf, run: str) -> dict[str, Any]:
    """All that the page shows of one run; raises Missing."""
    places = shelf.checkpoints(run)
    checkpoints = []
    for name, path in places.items():
        with contextlib.suppress(OSError):
            written = path.stat().st_mtime
            checkpoints.append({"name": name, "step": shelf.step(path), "written": written})
    checkpoints.sort(key=lambda each: (each["step"] is None, each["step"] or 0, each["name"]))
    if run in shelf.given:
        nothing = {"config": {}, "samples": [], "curves": {name: [] for name in CURVES}}
        what = {"name": run, "kind": shelf.kinds.get(run), "training": False}
        return what | {"checkpoints": checkpoints} | nothing
    folder = shelf.folder(run)
    more = {"curves": curves(folder), "samples": samples(folder), "config": read_config(folder)}
    return summary(run, folder) | {"checkpoints": checkpoints} | more


def kind(config: dict[str, Any]) -> str:
    """text, classification or instructions."""
    return str((config.get("data") or {}).get("task") or "text")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """As many points of each as can be seen."""
    return {name: thinned(points) for name, points in read_curves(folder).items()}


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each as (step, value), of metrics.csv; a line that is being written is left out."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    with contextlib.suppress(OSError, csv.Error), (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, column in CURVES.items():
                with contextlib.suppress(TypeError, ValueError, KeyError):
                    value = float(row[column])
                    if math.isfinite(value):
                        found[name].append((int(row["step"]), value))
    return found


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` of them: the means of equal groups."""
    size = -(-len(points) // POINTS)
    if size <= 1:
        return points
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def samples(folder: Path) -> list[dict[str, Any]]:
    """The latest texts that the run wrote while it trained, the last first."""
    found = []
    for path in (folder / "samples").glob("*.txt"):
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append((path.stat().st_mtime, path.stem, text[:LARGEST]))
    latest = sorted(found, reverse=True)[:SAMPLES]
    return [{"name": name.replace("_", " "), "text": text} for _, name, text in latest]


def read_config(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        return parsed(folder / "config.yaml", (folder / "config.yaml").stat().st_mtime_ns)
    return {}


@functools.lru_cache(1000)  # of many runs this would take seconds each time
def parsed(path: Path, _written: int) -> dict[str, Any]:
    with contextlib.suppress(OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
