"""What the report reads of run folders; a run need not be finished.

A folder given may be a run, a sweep, or one that holds runs.
"""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gptlab.config import sweeps
from gptlab.report.sweep_ranking import settings
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

SAMPLES = 12  # of a run, at most: evenly over its steps


class MetricPoint(NamedTuple):
    """A measured value, and where it stands on each axis."""

    step: int
    tokens: int
    seconds: float  # spent on training steps: what validation and samples took is left out
    value: float


CURVES = ("train/loss", "valid/loss", "valid/best_possible", "train/epoch_loss")


def read_metrics(path: Path) -> dict[str, list[MetricPoint]]:
    """The curves of a metrics.csv, as far as they are finite.

    Raises ValueError, KeyError, TypeError or csv.Error for what is none.
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


def flatten_stored(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A stored configuration with keys as they are typed: `model.n_layer`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in ("extra", "callbacks", "logger"):
            flat |= flatten_stored(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Sample(NamedTuple):
    title: str  # epoch_3, or step_400
    text: str


@dataclass
class LoadedRun:
    """A run as it lies on disk."""

    folder: Path
    config: dict[str, Any]  # with flat keys
    metrics: dict[str, list[MetricPoint]]
    summary: dict[str, Any]  # empty while the run is not finished
    evaluation: dict[str, Any]  # empty where there is none
    samples: list[Sample] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)  # of a sweep's job, what differs
    label: str = ""  # its own among the runs of a report

    @property
    def parameters(self) -> int | None:
        return self.summary.get("parameters")

    @property
    def compute(self) -> float | None:
        """Floating-point operations of training, 6 a weight and token, attention's scores left out.

        Weights that are looked up and not multiplied do not count. Kaplan and others (2020),
        arXiv:2001.08361, section 2.1.
        """
        if not self.summary:
            return None
        config, weights = self.config, self.summary["parameters"]
        if not config["model.tied_head"]:
            weights -= config["model.vocab_size"] * config["model.d_model"]
        if config["model.position"] == "learned":
            weights -= config["model.context_length"] * config["model.d_model"]
        return 6.0 * weights * self.summary["tokens"]  # 0 where no step was made

    @property
    def loss(self) -> float | None:
        """Validation loss, nats a token: that of the end, or the lowest so far; None if none is
        finite."""
        told = self.summary.get("after", {}).get("valid/loss")
        values = [p.value for p in self.metrics.get("valid/loss", [])] if told is None else [told]
        return min((float(value) for value in values if math.isfinite(value)), default=None)

    @property
    def best_possible(self) -> float | None:
        """Of the same documents as the loss."""
        if (told := self.summary.get("after", {}).get("valid/best_possible")) is not None:
            return told
        return next((p.value for p in reversed(self.metrics.get("valid/best_possible", []))), None)

    @property
    def corpus(self) -> str | None:
        """What must be alike for losses to be comparable."""
        return self.summary.get("corpus", {}).get("name")

    @property
    def classifies(self) -> bool:
        """Whether its loss is a message's, and not a token's."""
        return self.config.get("data.task") == "classification"

    @property
    def figures(self) -> dict[str, float]:
        """All results by name: before training, after it, and from `gptlab.evaluate`."""
        before = self.summary.get("before", {})
        early = {f"before training: {name}": value for name, value in before.items()}
        later = {
            f"gptlab.evaluate: {name}": value
            for name, value in self.evaluation.get("results", {}).items()
            if isinstance(value, int | float)
        }
        return early | self.summary.get("after", {}) | later


def load_runs(paths: list[str], run_root: str = "runs") -> list[LoadedRun]:
    """The runs of these folders, each once, labelled; raises UserError where there is none.

    A damaged run that was named is refused; among others in a folder it is told, and left out.
    """
    found: dict[Path, LoadedRun] = {}
    for path in paths:
        place = run_dir.locate_run("report", path, run_root)
        place = run_dir.latest_checkpoint(place).parent.parent if path == "latest" else place
        folders = runs_below(place)
        if not folders:
            raise UserError(f"{path}: holds no run; name a run's folder, a sweep's, or one of runs")
        for folder in folders:
            try:
                found[folder.resolve()] = load_run(folder.resolve())
            except UserError as error:
                if folder == place:
                    raise
                print_status(f"left out: {error.line()}")
    if not found:
        raise UserError(f"{', '.join(paths)}: no run here can be read")
    return labelled(list(found.values()))


def runs_below(folder: Path) -> list[Path]:
    """A run's folder itself; of a sweep its jobs, of others all runs and jobs, the oldest first.

    Raises UserError for a folder that cannot be read.
    """
    try:
        if (folder / "config.yaml").is_file():
            return [folder]
        inner = [each for each in folder.glob("*/") if each.name[0] != "."]
        jobs = [
            job for each in inner if (each / sweeps.SWEEP_FILE).is_file() for job in each.glob("*/")
        ]
        found = [each for each in (*inner, *jobs) if (each / "config.yaml").is_file()]
        return sorted(found, key=lambda each: (run_dir.start_time(each), each.name))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None


def load_run(folder: Path) -> LoadedRun:
    """Raises UserError for a folder whose files are damaged."""
    place = folder
    try:
        place = folder / "config.yaml"
        config = flatten_stored(yaml.safe_load(place.read_text(encoding="utf-8")))
        _ = [config[f"model.{key}"] + 0 for key in ("vocab_size", "d_model", "context_length")]
        _ = config["model.tied_head"], config["model.position"]
        place = folder / "metrics.csv"
        metrics = read_metrics(place) if place.exists() else {}
        place = folder / "evaluation.json"
        evaluation = read_facts(place)
        place = folder / "summary.json"
        summary = read_facts(place)
        run = LoadedRun(folder, config, metrics, summary, evaluation)
        run.swept = [str(text) for text in summary.get("overrides", [])]
        # What the page will ask for: strange content is found here, and not in the middle of it.
        _ = run.loss, run.best_possible, run.compute, run.figures, hash(run.corpus)
        _ = float(summary.get("seconds", 0)), int(summary.get("parameters", 0))
        place = folder / "samples"
        run.samples = read_samples(folder)
        return run
    except Exception as error:  # whatever damaged or foreign files provoke
        why = getattr(error, "strerror", None) or "is damaged"
        raise UserError(f"{place}: {why}; leave this run out of the report") from None


def read_facts(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_samples(folder: Path) -> list[Sample]:
    """What was written while training, by step or epoch: at most SAMPLES, the first and the last
    among them."""
    paths = run_dir.sample_files(folder)
    if len(paths) > SAMPLES:
        paths = [paths[round(n * (len(paths) - 1) / (SAMPLES - 1))] for n in range(SAMPLES)]
    return [Sample(p.stem, p.read_text(encoding="utf-8", errors="replace").strip()) for p in paths]


def labelled(found: list[LoadedRun]) -> list[LoadedRun]:
    """Each with a label of its own: what a sweep set, its name, or its folder's."""
    for run in found:
        swept = [key.rpartition(".")[2] + "=" + v for key, v in settings(run.swept).items()]
        run.label = ", ".join(swept) or str(run.config.get("name") or plain(run.folder.name))
    alike: dict[str, list[LoadedRun]] = {}
    for run in found:
        alike.setdefault(run.label, []).append(run)
    for several in alike.values():
        seeds = {str(run.config.get("seed")) for run in several}
        for run in several if len(several) > 1 else []:
            seed, began = f"seed {run.config.get('seed')}", run.folder.name[:17]
            run.label += f" ({seed if len(seeds) == len(several) else began})"
    if len({run.label for run in found}) < len(found):
        for number, run in enumerate(found, 1):
            run.label = f"{number}: {run.label}"
    return found


def plain(name: str) -> str:
    """A run folder's name without its date and time."""
    parts = name.split("_", 2)
    return parts[2] if len(parts) == 3 and parts[0][:2] == "20" else name


def differences(found: list[LoadedRun]) -> dict[str, list[Any]]:
    """The settings in which the runs are not alike, with the value of each run."""
    keys = list(dict.fromkeys(key for run in found for key in run.config))
    values = {key: [run.config.get(key) for run in found] for key in keys}
    return {k: v for k, v in values.items() if any(each != v[0] for each in v)}
