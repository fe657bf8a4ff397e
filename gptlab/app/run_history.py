"""What is kept of runs: their settings, curves, samples and checkpoints.

A run that trains writes these files while they are read.
"""

import contextlib
import csv
import functools
import json
import math
from pathlib import Path
from typing import Any, TextIO

import yaml

from gptlab.app.model_registry import ModelRegistry
from gptlab.utils import run_dir

POINTS = 500  # of a curve: more than a screen can show is averaged
CURVES = {
    "train": "train/loss",
    "valid": "valid/loss",
    "best_possible": "valid/best_possible",
    "accuracy": "valid/accuracy",
}
SAMPLES = 20  # the latest so many files
LARGEST = 10_000  # characters of a file of samples
MOST = 2**20  # characters that are read of a configuration or a file of samples


def overview(shelf: ModelRegistry) -> list[dict[str, Any]]:
    """All runs with the little that tells them apart, the latest first; without what no one can
    read."""
    found = [{"name": name, "kind": shelf.kinds.get(name), "given": True} for name in shelf.given]
    for name, folder in shelf.runs().items():
        with contextlib.suppress(Exception):  # one strange folder must not hide the others
            found.append(summary(name, folder))
    return found


def summary(name: str, folder: Path) -> dict[str, Any]:
    config, told = read_config(folder), read_json(folder / "summary.json")
    model, finished = part(config, "model"), run_dir.is_finished(folder)
    return {
        "name": name,
        "kind": kind(config),
        "training": not finished and run_dir.is_locked(folder),
        "finished": finished,
        "began": told.get("began"),
        "steps": told.get("steps"),
        "parameters": told.get("parameters"),
        "loss": lowest(*state(folder / "metrics.csv")),
        "model": {key: model.get(key) for key in ("n_layer", "n_head", "d_model")},
        "data": part(config, "data").get("source"),
    }


def details(shelf: ModelRegistry, run: str) -> dict[str, Any]:
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


def part(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def kind(config: dict[str, Any]) -> str:
    """text, classification or instructions."""
    return str(part(config, "data").get("task") or "text")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """As many points of each as can be seen."""
    found = read_curves(*state(folder / "metrics.csv"))
    return {name: thinned(points) for name, points in found.items()}


def state(path: Path) -> tuple[Path, int, int]:
    """A file with what changes as it is written: what was read of it can be kept till then."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return path, found.st_mtime_ns, found.st_size
    return path, 0, 0


@functools.lru_cache(10_000)  # of many runs reading would take seconds each time
def lowest(path: Path, written: int, size: int) -> float | None:
    """The best validation loss of a metrics.csv."""
    losses = read_curves(path, written, size)["valid"]
    return min((loss for _, loss in losses), default=None)


@functools.lru_cache(4)
def read_curves(path: Path, _written: int, _size: int) -> dict[str, list[tuple[int, float]]]:
    """Each as (step, value), of metrics.csv; a line that is being written is left out."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    with contextlib.suppress(OSError, csv.Error, ValueError), opened(path) as file:
        rows = csv.reader(file)
        header = next(rows, [])
        step, there = header.index("step"), CURVES.items()
        places = [(found[name], header.index(of)) for name, of in there if of in header]
        for row in rows:
            for points, at in places:
                if max(at, step) < len(row) and row[at]:
                    add(points, row[step], row[at])
    return found


def add(points: list[tuple[int, float]], step: str, value: str) -> None:
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(value)):
            points.append((int(step), number))


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` of them: the means of equal groups."""
    size = -(-len(points) // POINTS)
    if size <= 1:
        return points
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def samples(folder: Path) -> list[dict[str, Any]]:
    """The latest texts that the run wrote while it trained, the last first."""
    found: list[dict[str, Any]] = []
    for path in reversed(run_dir.sample_files(folder)):
        with contextlib.suppress(OSError):
            name = path.stem.replace("_", " ")
            found.append(plain({"name": name, "text": content(path)[:LARGEST]}))
        if len(found) == SAMPLES:
            break
    return found


def read_config(folder: Path) -> dict[str, Any]:
    return parsed(*state(folder / "config.yaml"))


@functools.lru_cache(1000)
def parsed(path: Path, _written: int, _size: int) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        found = plain(yaml.safe_load(content(path)))
        return found if isinstance(found, dict) else {}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = plain(json.loads(content(path)))
        return found if isinstance(found, dict) else {}
    return {}


def content(path: Path) -> str:
    """The beginning of a file, whatever it holds; raises OSError."""
    with opened(path) as file:
        return file.read(MOST)


def opened(path: Path) -> TextIO:
    """A file to be read as far as it is text; raises OSError for a pipe, which would be waited
    for."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.open(newline="", encoding="utf-8", errors="replace")


def plain(value: Any) -> Any:
    """The same in values that can be sent as JSON; what is strange becomes text."""
    match value:
        case dict():
            return {plain(str(key)): plain(each) for key, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
    return str(value).encode(errors="replace").decode()
