"""Store measured runs as small JSON files, from which the experiment cards are generated."""

import csv
import json
import math
import re
import shlex
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import yaml

from gptlab.config.cli import compose_config
from gptlab.config.keys import flatten
from gptlab.report.load_runs import MetricPoint, format_setting, read_metrics
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

MAX_CURVE_POINTS = 200
# Keys that are not stored, and keys with paths, of which only the file names are stored.
PRIVATE_KEYS = ("run_root", "corpus_root", "hellaswag.path", "baseline_of")
PATH_KEYS = ("data.path", "data.valid_path", "data.hub", "model.pretrained", "init_from")
# Keys that do not count as a change of the experiment: file locations, and what a run derives.
IGNORED_KEYS = {
    *("seed", "name", "run_root", "corpus_root", "data.path", "data.valid_path", "hellaswag.path"),
    *("model.vocab_size", "model.trained_length", "data.num_workers", "trainer.accelerator"),
    *("trainer.deterministic", "trainer.num_threads", "trainer.halve_on_out_of_memory"),
    *("data.valid_tokens", "trainer.eval_every", "trainer.log_every", "trainer.checkpoint_every"),
    *("trainer.compile", "trainer.chunked_loss", "trainer.fast_loop", "trainer.keep_freed_memory"),
}
CLASSIFIER_KEYS = {"model.n_classes", "model.tied_head", "model.head_bias"}  # set by the data


@dataclass
class MeasuredRun:
    """One measured run of an experiment."""

    summary: dict[str, Any]
    config: dict[str, Any]  # flat keys
    curve: dict[str, list[list[float]]]  # metric: [[step, value], …]
    samples: dict[str, str]  # file name: text

    @property
    def experiment(self) -> str:
        return self.summary["experiment"]

    @property
    def results(self) -> dict[str, float]:
        before = {f"before:{name}": value for name, value in self.summary["before"].items()}
        return self.summary["after"] | before

    @property
    def has_data_sample(self) -> bool:
        """Whether a local file replaces the data set; data=text always takes a local file."""
        return bool(self.config.get("data.path")) and self.config["data.source"] != "text"

    def changed_settings(self) -> dict[str, tuple[Any, Any]]:
        """Map each key that differs from the experiment's to (this run's value, its value)."""
        original = experiment_config(self.experiment)
        is_classifier = bool(self.config.get("model.n_classes"))
        ignored = IGNORED_KEYS | (CLASSIFIER_KEYS if is_classifier else set())
        return {
            key: (value, original[key])
            for key, value in self.config.items()
            if key in original and key not in ignored and value != original[key]
        }


def read_run(folder: Path) -> MeasuredRun:
    """Read a run folder; raises UserError if it is not a finished run of an experiment."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        stored = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        metrics = read_metrics(folder / "metrics.csv")
    except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError):
        raise UserError(f"{folder}: is not a finished run (summary.json, config.yaml)") from None
    if not summary["experiment"]:
        raise UserError(f"{folder}: was not trained with experiment=NAME")
    flat = flatten(stored)
    config = {key: value for key, value in flat.items() if key not in PRIVATE_KEYS}
    for key in PATH_KEYS:
        config[key] = strip_folders(config.get(key))
    # The samples of labeled records quote the data, which is not ours to publish.
    samples = run_dir.sample_files(folder) if config.get("data.task", "text") == "text" else []
    return MeasuredRun(
        summary=summary | {"command": strip_command(summary["command"])},
        config=config,
        curve={name: average_neighbors(points) for name, points in metrics.items()},
        samples={path.stem: path.read_text(encoding="utf-8") for path in samples},
    )


def strip_folders(value: Any) -> Any:
    """Reduce a path, or each path of a list, to its file name; keep names like `owner/dataset`."""
    if isinstance(value, list):
        return [strip_folders(each) for each in value]
    on_disk = isinstance(value, str) and (Path(value).is_absolute() or value.count("/") != 1)
    return Path(value).name if on_disk or (value and Path(value).exists()) else value


def strip_command(command: str) -> str:
    """Remove folder names from a typed command, to keep private paths out of the stored runs."""
    words = []
    for word in shlex.split(command):
        key, equals, value = word.partition("=")
        if key in ("run_root", "corpus_root"):
            continue
        if equals and key in (*PATH_KEYS, "hellaswag.path"):  # a path or a list of paths
            value = re.sub(r"[^\[\],]*/", "", value)
        words.append(f"{key}={value}" if equals else Path(word).name)
    return shlex.join(words)


def average_neighbors(points: list[MetricPoint]) -> list[list[float]]:
    """Reduce a curve to at most MAX_CURVE_POINTS means of neighboring points."""
    size = -(-len(points) // MAX_CURVE_POINTS)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [[part[-1].step, round(statistics.fmean(p.value for p in part), 5)] for part in parts]


def save_run(run: MeasuredRun, folder: Path) -> Path:
    started = run.summary["began"].replace(":", "").replace("T", "_")
    text = json.dumps(vars(run), ensure_ascii=False) + "\n"
    # The checksum separates sweep jobs that start in the same second.
    path = folder / run.experiment / f"{started}_{crc32(text.encode()):08x}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def load_experiment_runs(folder: Path, experiment: str) -> list[MeasuredRun]:
    """Load all runs of an experiment, oldest first."""
    paths = sorted((folder / experiment).glob("*.json"))
    return [MeasuredRun(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


@cache
def experiment_config(experiment: str) -> dict[str, Any]:
    """Return the flat configuration of `python train.py experiment=…`."""
    return flatten(compose_config("train", [f"experiment={experiment}"]))


@dataclass
class SeedGroup:
    """Runs that differ only in their seed."""

    runs: list[MeasuredRun]
    label: str = ""

    @property
    def first(self) -> MeasuredRun:
        return self.runs[0]

    @property
    def is_named(self) -> bool:
        """Runs with a name=… are side studies, not runs of the experiment itself."""
        return bool(self.first.config.get("name"))

    def values(self, result: str) -> list[float]:
        return [r.results[result] for r in self.runs if result in r.results]

    def mean(self, result: str) -> float | None:
        """Return the mean over seeds; perplexity is exp of the mean loss."""
        if result.endswith("perplexity"):
            losses = self.values(result.replace("perplexity", "loss"))
            return math.exp(min(statistics.fmean(losses), 700)) if losses else None
        values = self.values(result)
        return statistics.fmean(values) if values else None

    def deviation(self, result: str) -> float | None:
        """Return the standard deviation over seeds; None for one seed, and for perplexity."""
        values = self.values(result)
        several = len(values) > 1 and not result.endswith("perplexity")
        return statistics.stdev(values) if several else None


def describe_change(changed: dict[str, tuple[Any, Any]]) -> str:
    """Name up to two changed settings, such as `, norm=post final_norm=false`."""
    if len(changed) > 2:
        return ", changed settings"
    short = [f"{k.rpartition('.')[2]}={format_setting(v)}" for k, (v, _) in changed.items()]
    return f", {' '.join(short)}" if short else ""


def group_by_seed(runs: list[MeasuredRun]) -> list[SeedGroup]:
    """Group runs that differ only in their seed; label the groups uniquely."""
    same_config: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        config = {key: value for key, value in run.config.items() if key != "seed"}
        key = json.dumps([run.experiment, config], sort_keys=True)
        same_config.setdefault(key, []).append(run)
    groups, used = [], Counter[str]()
    for members in same_config.values():
        name, experiment = members[0].config.get("name"), members[0].experiment
        changed = describe_change(members[0].changed_settings())
        label = f"{experiment}: {name}" if name else experiment + changed
        used[label] += 1
        groups.append(SeedGroup(members, label if used[label] == 1 else f"{label} ({used[label]})"))
    return groups
