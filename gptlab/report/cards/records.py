"""What the project keeps of a measured run: a small file from its run folder, for the cards."""

import csv
import json
import math
import re
import shlex
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import yaml

from gptlab.config.keys import flatten
from gptlab.config.schema import TrainConfig
from gptlab.report.load_runs import MetricPoint, flatten_stored, read_metrics
from gptlab.utils.errors import UserError

POINTS = 200  # of a curve, at most
# Where a run's files lie, and what a run works out by itself: no difference from the experiment.
PLACES = {
    *("seed", "name", "run_root", "corpus_root", "data.path", "data.valid_path", "hellaswag.path"),
    *("model.vocab_size", "model.trained_length", "data.num_workers", "trainer.accelerator"),
    *("trainer.deterministic", "trainer.threads", "trainer.halve_on_out_of_memory"),
    *("data.valid_tokens", "trainer.eval_every", "trainer.log_every", "trainer.checkpoint_every"),
    *("trainer.compile", "trainer.chunked_loss", "trainer.fast_loop", "trainer.keep_freed_memory"),
}
OF_CLASSES = {"model.n_classes", "model.tied_head", "model.head_bias"}


@dataclass
class Record:
    """One run: its summary, its configuration as flat keys, its curve and its samples."""

    summary: dict[str, Any]
    config: dict[str, Any]
    curve: dict[str, list[list[float]]]  # metric: [[step, value], …]
    samples: dict[str, str]  # file: text

    @property
    def experiment(self) -> str:
        return self.summary["experiment"]

    @property
    def figures(self) -> dict[str, float]:
        before = {f"before:{name}": value for name, value in self.summary["before"].items()}
        return self.summary["after"] | before

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Keys in which the run is not its experiment: (the run's value, the experiment's)."""
        wanted = composed(self.experiment)
        places = PLACES | (OF_CLASSES if self.config.get("model.n_classes") else set())
        return {
            key: (value, wanted[key])
            for key, value in self.config.items()
            if key in wanted and key not in places and value != wanted[key]
        }


def extract(folder: Path) -> Record:
    """The record of a finished run of an experiment; raises UserError if it is none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        metrics = read_metrics(folder / "metrics.csv")
    except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError):
        raise UserError(f"{folder}: is no finished run (summary.json, config.yaml)") from None
    if not summary["experiment"]:
        raise UserError(f"{folder}: is the run of no experiment (experiment=NAME)")
    config = {name: value for name, value in flatten_stored(config).items() if name not in PATHS}
    for name in FILES:
        config[name] = file_names(config.get(name))
    samples = sorted((folder / "samples").glob("*.txt"), key=lambda path: path.stat().st_mtime)
    if config.get("data.task", "text") != "text":
        samples = []  # they show the records themselves, which are other people's
    return Record(
        summary=without_folders(summary),
        config=config,
        curve={name: thin(points) for name, points in metrics.items()},
        samples={path.stem: path.read_text(encoding="utf-8") for path in samples},
    )


PATHS = ("run_root", "corpus_root", "hellaswag.path", "baseline_of")
FILES = ("data.path", "data.valid_path", "data.hub", "model.pretrained", "init_from")


def file_names(value: Any) -> Any:
    """A path, or each of a list, without its folder; a data set's name on the hub as it is."""
    if isinstance(value, list):
        return [file_names(each) for each in value]
    on_disk = isinstance(value, str) and (Path(value).is_absolute() or value.count("/") != 1)
    return Path(value).name if on_disk or (value and Path(value).exists()) else value


def without_folders(summary: dict[str, Any]) -> dict[str, Any]:
    """The command with file names alone: where files lay is nobody's business."""
    words = []
    for word in shlex.split(summary["command"]):
        key, equals, value = word.partition("=")
        if key in ("run_root", "corpus_root"):
            continue
        if equals and key in (*FILES, "hellaswag.path"):  # a file, or a list of them
            value = re.sub(r"[^\[\],]*/", "", value)
        words.append(f"{key}={value}" if equals else word)
    return summary | {"command": shlex.join(words)}


def thin(points: list[MetricPoint]) -> list[list[float]]:
    """At most POINTS means of neighbours, so that noise shrinks and nothing is picked."""
    size = -(-len(points) // POINTS)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [[part[-1].step, round(statistics.fmean(p.value for p in part), 5)] for part in parts]


def keep(record: Record, folder: Path) -> Path:
    """Stores a record among those of the project."""
    stamp = record.summary["began"].replace(":", "").replace("T", "_")
    text = json.dumps(vars(record), ensure_ascii=False) + "\n"
    # Two jobs of a sweep may begin in the same second.
    path = folder / record.experiment / f"{stamp}_{crc32(text.encode()):08x}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, experiment: str) -> list[Record]:
    """All records of an experiment, the oldest first."""
    paths = sorted((folder / experiment).glob("*.json"))
    return [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


_composed: dict[str, dict[str, Any]] = {}


def composed(experiment: str) -> dict[str, Any]:
    """The experiment's own configuration, flat, as `python train.py experiment=…` has it."""
    if experiment not in _composed:
        _composed[experiment] = flatten(compose([f"experiment={experiment}"]))
    return _composed[experiment]


def compose(overrides: list[str]) -> TrainConfig:
    """The checked configuration of train.py with these arguments."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    from gptlab.config.cli import CONF_DIR, to_config

    GlobalHydra.instance().clear()
    ConfigStore.instance().store("train_schema", TrainConfig)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_config("train", hydra_compose("train", overrides))


@dataclass
class Group:
    """Runs that differ by their seed alone."""

    records: list[Record]
    label: str = ""  # in tables and curves

    @property
    def first(self) -> Record:
        return self.records[0]

    def mean(self, figure: str) -> float | None:
        found = [r.figures[figure] for r in self.records if figure in r.figures]
        return statistics.fmean(found) if found else None

    def deviation(self, figure: str) -> float | None:
        """The standard deviation over seeds, where there are several."""
        found = [r.figures[figure] for r in self.records if figure in r.figures]
        return statistics.stdev(found) if len(found) > 1 else None

    def losses_as_perplexity(self, figure: str) -> float | None:
        """exp of the mean loss, not a mean of exponentials."""
        loss = self.mean(figure.replace("perplexity", "loss"))
        return None if loss is None else math.exp(min(loss, 700))


def group(records: list[Record]) -> list[Group]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        plain = {key: value for key, value in record.config.items() if key != "seed"}
        groups.setdefault(json.dumps([record.experiment, plain], sort_keys=True), []).append(record)
    return labelled([Group(members) for members in groups.values()])


def labelled(groups: list[Group]) -> list[Group]:
    """Each with a name of its own: the run's, or the experiment's; a number where two are alike."""
    taken: Counter[str] = Counter()
    for each in groups:
        name, experiment = each.first.config.get("name"), each.first.experiment
        changed = ", changed" if each.first.differences() else ""
        each.label = f"{experiment}: {name}" if name else experiment + changed
        taken[each.label] += 1
        if taken[each.label] > 1:
            each.label += f" ({taken[each.label]})"
    return groups
