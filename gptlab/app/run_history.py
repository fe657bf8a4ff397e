"""Read run folders: configuration, results, loss curves, samples and checkpoints.

A training run may write these files while they are read.
"""

import contextlib
import csv
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import yaml

from gptlab.app.model_registry import ModelRegistry, replace_invalid
from gptlab.utils import run_dir

MAX_POINTS = 500  # of a curve; more are averaged in groups
CURVES = {  # names on the page: columns of metrics.csv
    "train": "train/loss",
    "valid": "valid/loss",
    "best_possible": "valid/best_possible",
    "accuracy": "valid/accuracy",
}
MAX_RESULTS = 200  # numbers per column
MAX_SAMPLE_FILES = 20  # the latest
MAX_SAMPLE_LENGTH = 10_000  # characters of each
MAX_FILE_LENGTH = 2**20  # characters read of a configuration or a samples file
Points = list[tuple[int, float]]  # (step, value)
FileState = tuple[Path, int, int]  # path, modification time, size: changes with the content


def list_runs(registry: ModelRegistry) -> list[dict[str, Any]]:
    """Summarize all runs, the latest first; skip unreadable ones."""
    summaries: list[dict[str, Any]] = [
        {"name": name, "task": registry.standalone_tasks.get(name), "standalone": True}
        for name in registry.standalone
    ]
    for name, folder in registry.runs().items():
        with contextlib.suppress(Exception):  # one strange folder must not hide the others
            summaries.append(summarize_run(name, folder))
    return summaries


def summarize_run(name: str, folder: Path) -> dict[str, Any]:
    config = read_config(*file_state(folder / "config.yaml"))
    summary = read_dict(folder / "summary.json", json.loads)
    model, finished = config_group(config, "model"), run_dir.is_finished(folder)
    return {
        "name": name,
        "task": str(config_group(config, "data").get("task") or "text"),
        "training": not finished and run_dir.is_locked(folder),
        "finished": finished,
        "started": summary.get("began"),
        "steps": summary.get("steps"),
        "parameters": summary.get("parameters"),
        "best_loss": lowest_valid_loss(*file_state(folder / "metrics.csv")),
        "model": {key: model.get(key) for key in ("n_layer", "n_head", "d_model")},
        "data": config_group(config, "data").get("source"),
    }


def describe_run(registry: ModelRegistry, run: str) -> dict[str, Any]:
    """Return everything that the page shows about one run; raises NotFound."""
    checkpoints: list[dict[str, Any]] = []
    for name, path in registry.checkpoints(run).items():
        with contextlib.suppress(OSError):
            modified, step = path.stat().st_mtime, registry.checkpoint_step(path)
            checkpoints.append({"name": name, "step": step, "modified": modified})
    checkpoints.sort(key=lambda each: (each["step"] is None, each["step"] or 0, each["name"]))
    if run in registry.standalone:
        summary = {"name": run, "task": registry.standalone_tasks.get(run), "training": False}
        no_curves: dict[str, Points] = {name: [] for name in CURVES}
        files: dict[str, Any] = {"config": {}, "results": {}, "curves": no_curves, "samples": []}
    else:
        folder = registry.run_folder(run)
        summary, metrics = summarize_run(run, folder), file_state(folder / "metrics.csv")
        files = {
            "config": read_config(*file_state(folder / "config.yaml")),
            "results": read_run_results(folder),
            "curves": {name: average_points(each) for name, each in read_curves(*metrics).items()},
            "samples": read_latest_samples(folder),
        }
    return summary | {"checkpoints": checkpoints} | files


def read_run_results(folder: Path) -> dict[str, dict[str, float]]:
    """Return evaluation results by column: before and after training, and evaluated later."""
    summary = read_dict(folder / "summary.json", json.loads)
    columns = {"before": config_group(summary, "before"), "after": config_group(summary, "after")}
    columns["later"] = config_group(read_dict(folder / "evaluation.json", json.loads), "results")
    numbers = {  # NaN has become text
        column: [(name[:100], each) for name, each in values.items() if type(each) in (int, float)]
        for column, values in columns.items()
    }
    return {column: dict(pairs[:MAX_RESULTS]) for column, pairs in numbers.items()}


def config_group(config: dict[str, Any], name: str) -> dict[str, Any]:
    group = config.get(name)
    return group if isinstance(group, dict) else {}


def file_state(path: Path) -> FileState:
    """Return a cache key that changes whenever the file is written."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        return path, stat.st_mtime_ns, stat.st_size
    return path, 0, 0


@functools.lru_cache(10_000)  # reading many runs would take seconds each time
def lowest_valid_loss(path: Path, modified: int, size: int) -> float | None:
    return min((loss for _, loss in read_curves(path, modified, size)["valid"]), default=None)


@functools.lru_cache(4)
def read_curves(path: Path, _modified: int, _size: int) -> dict[str, Points]:
    """Read the curves of metrics.csv; skip lines that are incomplete or no numbers."""
    curves: dict[str, Points] = {name: [] for name in CURVES}
    with contextlib.suppress(OSError, csv.Error, ValueError), open_text(path) as file:
        rows = csv.reader(file)
        header = next(rows, [])
        step = header.index("step")
        columns = [(n, header.index(column)) for n, column in CURVES.items() if column in header]
        for row in rows:
            for name, column in columns:
                if max(column, step) < len(row) and row[column]:
                    with contextlib.suppress(ValueError):
                        if math.isfinite(value := float(row[column])):
                            curves[name].append((int(row[step]), value))
    return curves


def average_points(points: Points) -> Points:
    """Average groups of equal size, so that at most MAX_POINTS remain."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def read_latest_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the texts generated during training, the latest first."""
    samples: list[dict[str, Any]] = []
    for path in reversed(run_dir.sample_files(folder)[-MAX_SAMPLE_FILES:]):
        with contextlib.suppress(OSError):
            text = read_file_start(path)[:MAX_SAMPLE_LENGTH]
            samples.append(to_json_value({"name": path.stem.replace("_", " "), "text": text}))
    return samples


@functools.lru_cache(1000)
def read_config(path: Path, _modified: int, _size: int) -> dict[str, Any]:
    return read_dict(path, yaml.safe_load)


def read_dict(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Read a dictionary from a file; empty if the file is missing or holds anything else."""
    with contextlib.suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        content = to_json_value(parse(read_file_start(path)))
        return content if isinstance(content, dict) else {}
    return {}


def read_file_start(path: Path) -> str:
    """Read the first MAX_FILE_LENGTH characters; raises OSError."""
    with open_text(path) as file:
        return file.read(MAX_FILE_LENGTH)


def open_text(path: Path) -> TextIO:
    """Open a regular file, replacing bytes that are not UTF-8; raises OSError for anything else.

    Opening a pipe would block.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.open(newline="", encoding="utf-8", errors="replace")


def to_json_value(value: Any) -> Any:
    """Convert to values that JSON can express; anything else becomes text."""
    match value:
        case dict():
            return {to_json_value(str(key)): to_json_value(each) for key, each in value.items()}
        case list():
            return [to_json_value(each) for each in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
    return replace_invalid(str(value))
