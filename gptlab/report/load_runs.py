"""Load run folders for reports: finished runs, unfinished runs, and the jobs of sweeps."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gptlab.config import sweeps
from gptlab.config.keys import flatten
from gptlab.report.sweep_ranking import parse_overrides
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

MAX_SAMPLES = 12  # per run
CURVES = ("train/loss", "valid/loss", "valid/best_possible", "train/epoch_loss")


class MetricPoint(NamedTuple):
    """One logged value and its position on each x-axis."""

    step: int
    tokens: int
    seconds: float  # spent on training steps, without validation and sampling
    value: float


class SampleFile(NamedTuple):
    title: str  # step_400 or epoch_3
    text: str


@dataclass
class LoadedRun:
    """The contents of a run folder."""

    folder: Path
    config: dict[str, Any]  # flat keys: model.n_layer
    metrics: dict[str, list[MetricPoint]]
    summary: dict[str, Any]  # empty until the run has finished
    evaluation: dict[str, Any]  # evaluation.json, or empty
    samples: list[SampleFile] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)  # for a sweep job: its swept settings
    label: str = ""  # unique among the runs of a report

    @property
    def parameters(self) -> int | None:
        return self.summary.get("parameters")

    @property
    def compute(self) -> float | None:
        """Training FLOPs: 6 per weight and token, without attention scores.

        Embedding tables that are only looked up do not count. Kaplan et al. (2020),
        arXiv:2001.08361, section 2.1.
        """
        if not self.summary:
            return None
        config, weights = self.config, self.summary["parameters"]
        if not config["model.tied_head"]:
            weights -= config["model.vocab_size"] * config["model.d_model"]
        if config["model.position"] == "learned":
            weights -= config["model.context_length"] * config["model.d_model"]
        return 6.0 * weights * self.summary["tokens"]

    @property
    def loss(self) -> float | None:
        """Final validation loss, or the lowest so far; None if no value is finite."""
        final = self.summary.get("after", {}).get("valid/loss")
        values = [final] if final is not None else self._values("valid/loss")
        return min((float(value) for value in values if math.isfinite(value)), default=None)

    @property
    def best_possible(self) -> float | None:
        """Entropy of the validation documents, where it is known."""
        final = self.summary.get("after", {}).get("valid/best_possible")
        values = [*self._values("valid/best_possible"), *([] if final is None else [final])]
        return values[-1] if values else None

    @property
    def corpus(self) -> str | None:
        """Losses are comparable only between runs on the same corpus."""
        return self.summary.get("corpus", {}).get("name")

    @property
    def is_classifier(self) -> bool:
        """A classifier's loss counts per message, not per token."""
        return self.config.get("data.task") == "classification"

    @property
    def results(self) -> dict[str, float]:
        """All results: before training, after training, and from `gptlab.evaluate`."""
        evaluated = self.evaluation.get("results", {}).items()
        numbers = {f"gptlab.evaluate: {n}": v for n, v in evaluated if isinstance(v, float | int)}
        before = {f"before training: {n}": v for n, v in self.summary.get("before", {}).items()}
        return before | self.summary.get("after", {}) | numbers

    def _values(self, metric: str) -> list[float]:
        return [point.value for point in self.metrics.get(metric, [])]


def load_runs(paths: list[str], run_root: str = "runs") -> list[LoadedRun]:
    """Load each run once, from run folders, sweep folders, or folders of runs, and label it.

    A damaged run raises UserError if it was named itself; inside a folder it is skipped.
    """
    runs: dict[Path, LoadedRun] = {}
    for path in paths:
        root = run_dir.locate_run("", path, run_root)
        root = run_dir.latest_checkpoint(root, "").parent.parent if path == "latest" else root
        folders = find_run_dirs(root)
        if not folders:
            raise UserError(f"{path}: contains no run; name a run, a sweep, or a folder of runs")
        for folder in folders:
            try:
                runs[folder.resolve()] = load_run(folder.resolve())
            except UserError as error:
                if folder == root:
                    raise
                print_status(f"skipped: {error.line()}")
    if not runs:
        raise UserError(f"{', '.join(paths)}: none of the runs can be read")
    return label_runs(list(runs.values()))


def find_run_dirs(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run, else the runs and sweep jobs in it, oldest first."""
    try:
        if (folder / "config.yaml").is_file():
            return [folder]
        children = [child for child in folder.glob("*/") if child.name[0] != "."]
        sweep_dirs = [child for child in children if (child / sweeps.SWEEP_FILE).is_file()]
        jobs = [job for sweep in sweep_dirs for job in sweep.glob("*/")]
        runs = [child for child in (*children, *jobs) if (child / "config.yaml").is_file()]
        return sorted(runs, key=lambda run: (run_dir.start_time(run), run.name))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None


def load_run(folder: Path) -> LoadedRun:
    """Load one run folder; raises UserError with the file's name if a file is damaged."""
    path = folder
    try:
        path = folder / "config.yaml"
        config = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
        _ = [config[f"model.{key}"] + 0 for key in ("vocab_size", "d_model", "context_length")]
        _ = config["model.tied_head"], config["model.position"]
        path = folder / "metrics.csv"
        metrics = read_metrics(path) if path.exists() else {}
        path = folder / "evaluation.json"
        evaluation = read_json_if_exists(path)
        path = folder / "summary.json"
        summary = read_json_if_exists(path)
        run = LoadedRun(folder, config, metrics, summary, evaluation)
        run.overrides = [str(text) for text in summary.get("overrides", [])]
        # Compute what the report will use, so that damaged files fail here.
        _ = run.loss, run.best_possible, run.compute, run.results, hash(run.corpus)
        _ = float(summary.get("seconds", 0)), int(summary.get("parameters", 0))
        path = folder / "samples"
        run.samples = read_samples(folder)
        return run
    except Exception as error:  # damaged or foreign files raise anything
        reason = getattr(error, "strerror", None) or "is damaged"
        raise UserError(f"{path}: {reason}; leave this run out of the report") from None


def read_metrics(path: Path) -> dict[str, list[MetricPoint]]:
    """Read the finite values of each curve in metrics.csv.

    Raises ValueError, KeyError, TypeError or csv.Error if the file is damaged.
    """
    curves: dict[str, list[MetricPoint]] = {}
    tokens, seconds = 0, 0.0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if speed := float(row.get("train/tokens_per_second") or 0):
                seconds += (int(row["tokens"]) - tokens) / speed
                tokens = int(row["tokens"])
            for name in CURVES:
                value = float(row.get(name) or "nan")
                if math.isfinite(value):
                    point = MetricPoint(int(row["step"]), int(row["tokens"]), seconds, value)
                    curves.setdefault(name, []).append(point)
    return curves


def read_json_if_exists(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_samples(folder: Path) -> list[SampleFile]:
    """Read at most MAX_SAMPLES sample files, spread evenly over training."""
    paths = run_dir.sample_files(folder)
    if len(paths) > MAX_SAMPLES:
        last = len(paths) - 1
        paths = [paths[round(n * last / (MAX_SAMPLES - 1))] for n in range(MAX_SAMPLES)]
    return [SampleFile(p.stem, p.read_text("utf-8", "replace").strip()) for p in paths]


def label_runs(runs: list[LoadedRun]) -> list[LoadedRun]:
    """Give each run a unique label: its swept settings, else its name, else its folder's name."""
    for run in runs:
        settings = parse_overrides(run.overrides)
        swept = [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items()]
        run.label = ", ".join(swept) or str(run.config.get("name") or strip_time(run.folder.name))
    same_label: dict[str, list[LoadedRun]] = {}
    for run in runs:
        same_label.setdefault(run.label, []).append(run)
    for group in same_label.values():
        seeds = [str(run.config.get("seed")) for run in group]
        for run, seed in zip(group, seeds, strict=True) if len(group) > 1 else []:
            unique = len(set(seeds)) == len(group)
            run.label += f" (seed {seed})" if unique else f" ({run.folder.name[:17]})"
    if len({run.label for run in runs}) < len(runs):
        for number, run in enumerate(runs, 1):
            run.label = f"{number}: {run.label}"
    return runs


def strip_time(folder_name: str) -> str:
    """Drop the date and time from a run folder's name."""
    parts = folder_name.split("_", 2)
    return parts[2] if len(parts) == 3 and parts[0][:2] == "20" else folder_name


def differing_settings(runs: list[LoadedRun]) -> dict[str, list[Any]]:
    """Return the settings that are not equal in all runs, with each run's value."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    values = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def format_setting(value: Any) -> str:
    """Write a value as on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
