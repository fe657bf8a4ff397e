"""What the report reads of run folders; a run need not be finished.

A folder given may be a run, a sweep, or one that holds runs.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gptlab import runs, sweeps
from gptlab.errors import UserError
from gptlab.report.metrics import Point, flatten_stored, read_metrics

SAMPLES = 12  # of a run, at most: evenly over its steps


class Sample(NamedTuple):
    title: str  # epoch_3, or step_400
    text: str


@dataclass
class Run:
    """A run as it lies on disk."""

    folder: Path
    config: dict[str, Any]  # with flat keys
    metrics: dict[str, list[Point]]
    summary: dict[str, Any]  # empty while the run is not finished
    evaluation: dict[str, Any]  # empty where there is none
    samples: list[Sample] = field(default_factory=list)
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
        return 6.0 * weights * self.summary["tokens"]

    @property
    def loss(self) -> float | None:
        """Validation loss, nats a token: that of the end, or the lowest so far."""
        if (told := self.summary.get("after", {}).get("valid/loss")) is not None:
            return told
        return min((point.value for point in self.metrics.get("valid/loss", [])), default=None)

    @property
    def best_possible(self) -> float | None:
        return next((p.value for p in reversed(self.metrics.get("valid/best_possible", []))), None)

    @property
    def corpus(self) -> str | None:
        """What must be alike for losses to be comparable."""
        return self.summary.get("corpus", {}).get("name")

    @property
    def figures(self) -> dict[str, float]:
        """Everything measured, by name: at the end of training, and by suites since."""
        found = {**self.summary.get("before", {}), **self.summary.get("after", {})}
        for name, value in self.summary.get("before", {}).items():
            found[f"before training: {name}"] = value
            if name not in self.summary["after"]:
                del found[name]
        return found | dict(flat(self.evaluation))


def flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Nested figures as `suite/part/name`; facts that are no numbers are left out."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and prefix:
            found.append((prefix + name, value))
    return found


def gather(paths: list[str], run_root: str = "runs") -> list[Run]:
    """The runs of these folders, each once, labelled; raises UserError where there is none."""
    folders: dict[Path, None] = {}
    for path in paths:
        place = runs.locate("report", path, run_root)
        found = runs_below(runs.latest(place).parent.parent if path == "latest" else place)
        if not found:
            raise UserError(f"{path}: holds no run; name a run's folder, a sweep's, or one of runs")
        folders |= {folder.resolve(): None for folder in found}
    return labelled([read(folder) for folder in folders])


def runs_below(folder: Path) -> list[Path]:
    """A run's folder itself; of a sweep its jobs, of others all runs and jobs, the oldest first."""
    if (folder / "config.yaml").is_file():
        return [folder]
    inner = [each for each in folder.glob("*/") if each.name[0] != "."]
    jobs = [job for each in inner if (each / sweeps.SWEEP).is_file() for job in each.glob("*/")]
    found = [each for each in (*inner, *jobs) if (each / "config.yaml").is_file()]
    return sorted(found, key=lambda each: (runs.began(each), each.name))


def read(folder: Path) -> Run:
    """Raises UserError for a folder whose files are damaged."""
    place = folder
    try:
        place = folder / "config.yaml"
        config = flatten_stored(yaml.safe_load(place.read_text(encoding="utf-8")))
        config["model.tied_head"], config["model.vocab_size"], config["model.position"]
        place = folder / "metrics.csv"
        metrics = read_metrics(place) if place.exists() else {}
        summary, evaluation = {}, {}
        if (place := folder / "summary.json").exists():
            summary = json.loads(place.read_text(encoding="utf-8"))
            summary["parameters"], summary["tokens"], summary["after"], summary["corpus"]["name"]
        if (place := folder / "evaluation.json").exists():
            evaluation = dict(json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, yaml.YAMLError):
        raise UserError(f"{place}: cannot be read; leave this run out of the report") from None
    return Run(folder, config, metrics, summary, evaluation, read_samples(folder / "samples"))


def read_samples(folder: Path) -> list[Sample]:
    """What was written while training: at most SAMPLES, the first and the last among them."""
    paths = sorted(folder.glob("*.txt"), key=lambda path: (path.stat().st_mtime, path.name))
    if len(paths) > SAMPLES:
        paths = [paths[round(n * (len(paths) - 1) / (SAMPLES - 1))] for n in range(SAMPLES)]
    return [Sample(p.stem, p.read_text(encoding="utf-8", errors="replace").strip()) for p in paths]


def labelled(found: list[Run]) -> list[Run]:
    """Each with a label of its own: what a sweep set, its name, or its folder's."""
    for run in found:
        swept = [text.rpartition(".")[2] for text in run.summary.get("overrides", [])]
        run.label = ", ".join(swept) or run.config.get("name") or plain(run.folder.name)
    alike: dict[str, list[Run]] = {}
    for run in found:
        alike.setdefault(run.label, []).append(run)
    for several in alike.values():
        seeds = {run.config.get("seed") for run in several}
        for run in several if len(several) > 1 else []:
            by_seed = len(seeds) == len(several)
            run.label += (
                f" (seed {run.config['seed']})" if by_seed else f" ({run.folder.name[:17]})"
            )
    if len({run.label for run in found}) < len(found):
        for number, run in enumerate(found, 1):
            run.label = f"{number}: {run.label}"
    return found


def plain(name: str) -> str:
    """A run folder's name without its date and time."""
    parts = name.split("_", 2)
    return parts[2] if len(parts) == 3 and parts[0][:2] == "20" else name


def differences(found: list[Run]) -> dict[str, list[Any]]:
    """The settings in which the runs are not alike, with the value of each run."""
    keys = list(dict.fromkeys(key for run in found for key in run.config))
    values = {key: [run.config.get(key) for run in found] for key in keys}
    return {k: v for k, v in values.items() if any(each != v[0] for each in v)}
