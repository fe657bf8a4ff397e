"""What a sweep ends with: its runs ranked by validation loss, as a table, a file and a picture.

`python -m gptlab.report.sweep_ranking FOLDER` ranks what a sweep that was stopped has got so far.
"""

import csv
import json
import math
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from gptlab.config import sweeps


@dataclass
class Job:
    """One job of a sweep: what was set, and what came of it."""

    number: int
    folder: Path
    settings: dict[str, str]
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None  # why it failed

    @property
    def loss(self) -> float:
        return self.figures.get("loss", float("inf"))


class SweepRanking(Callback):
    """Called by Hydra (conf/train.yaml) when all jobs of a sweep are done."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        sweeps.write_sweep_file(Path(config.hydra.sweep.dir).expanduser().absolute())

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        try:
            rank_sweep(Path(config.hydra.sweep.dir).expanduser())
        except Exception:  # Hydra would make a warning of it, and the exit code 0
            traceback.print_exc()
            raise SystemExit(1) from None


def rank_sweep(sweep: Path) -> None:
    """Prints the ranking of a sweep's folder; writes sweep.png and sweep.csv beside its jobs.

    sweep.csv is the last: with it the sweep is finished. Raises SystemExit(2) if a job failed.
    """
    jobs = read(sweep)
    measure = choose_measure(jobs)
    jobs.sort(key=lambda job: (job.figures.get(measure, math.inf), job.number))
    done = [job for job in jobs if job.reason is None]
    if not done:  # each job has told why: nothing else is worth keeping
        for job in jobs:
            (job.folder / "failed.json").unlink()
        (sweep / sweeps.SWEEP_FILE).unlink(missing_ok=True)
        raise SystemExit(2)
    rows = table(jobs)
    print(f"\nranking, by {MEASURES[measure]}\n{as_text(rows)}\n")
    try:
        draw(done, sweep / "sweep.png")
    finally:
        sweeps.remove_leftovers(sweep)
        write(rows, sweep / "sweep.csv")
    print(f"written to {sweep}: sweep.csv, sweep.png", flush=True)
    if len(done) < len(jobs):
        raise SystemExit(2)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """At once: a file of that name is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, rows[0]).writeheader()
        csv.DictWriter(file, rows[0]).writerows(rows)
    temporary.replace(path)


MEASURES = {
    "loss": "validation loss",
    "bits_per_byte": "validation bits a byte, as the vocabularies differ",
}


def choose_measure(jobs: list[Job]) -> str:
    """Nats a token compare models of one vocabulary alone."""
    vocabularies = {job.figures["vocabulary"] for job in jobs if job.reason is None}
    bits = any(job.figures.get("bits_per_byte") for job in jobs)  # classes have none
    return "bits_per_byte" if len(vocabularies) > 1 and bits else "loss"


MEASURED = ("loss", "perplexity", "bits_per_byte", "accuracy", "f1")


def read(sweep: Path) -> list[Job]:
    """The jobs of a sweep, those that failed too."""
    jobs = []
    for folder in sweep.iterdir():
        failed, summary = folder / "failed.json", folder / "summary.json"
        if failed.exists():
            content = json.loads(failed.read_text())
            reason = content["reason"].splitlines()[-1]
            jobs.append(Job(content["job"], folder, settings(content["overrides"]), {}, reason))
        elif summary.exists():
            content = json.loads(summary.read_text())
            figures = {
                "parameters": content["parameters"],
                **{n: content["after"].get(f"valid/{n}") for n in MEASURED},
                "vocabulary": content["corpus"]["vocabulary"],
                "steps": content["steps"],
                "seconds": round(content["seconds"]),
            }
            swept = settings(content["overrides"])
            jobs.append(Job(int(folder.name.split(",")[0]), folder, swept, figures))
    return jobs


def settings(overrides: list[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


def table(jobs: list[Job]) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings))
    has = [n for n in MEASURED if any(job.figures.get(n) is not None for job in jobs)]
    figures = ("parameters", *has, "steps", "seconds")
    return [
        {
            "rank": rank if job.reason is None else "",
            "job": job.number,
            **{key: job.settings.get(key, "") for key in keys},
            **{name: job.figures.get(name, "") for name in figures},
            "folder": job.folder.name,
            "failed": job.reason or "",
        }
        for rank, job in enumerate(jobs, 1)
    ]


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table in columns; a failure's reason takes the place of its figures."""
    names = [name for name in rows[0] if name not in ("folder", "failed")]
    cells = [names]
    for row in rows:
        cells.append([short(row[name]) for name in names])
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    failed = [f"  {'failed:':>{widths[0]}}  {row['failed']}" for row in rows]
    told = [lines[0]]
    for line, reason, row in zip(lines[1:], failed, rows, strict=True):
        told += [line.rstrip()] + ([reason] if row["failed"] else [])
    return "\n".join(told)


def short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def number(value: str) -> float:
    """Raises ValueError for what is none."""
    found = float(value)
    return int(found) if found.is_integer() else found


def numbers(jobs: list[Job], key: str) -> list[float] | None:
    """The different values of a swept key in order, or None if they are no numbers, or seeds."""
    try:
        found = {number(job.settings[key]) for job in jobs if key in job.settings}
    except ValueError:
        return None
    return sorted(found) if len(found) > 1 and key != "seed" else None


def draw(jobs: list[Job], path: Path) -> None:
    """Loss over the first two swept numbers as a heat map, and against parameters."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    keys = [key for key in jobs[0].settings if numbers(jobs, key)]
    panels = 2 if len(keys) >= 2 else 1
    figure = Figure(figsize=(5.2 * panels, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if panels == 2:
        heat_map(axes[0], jobs, *keys[:2])
    scatter = axes[-1]
    sizes = [job.figures["parameters"] for job in jobs]
    scatter.scatter(sizes, [job.loss for job in jobs], color="#0072b2")
    for job in jobs:
        label = ", ".join(f"{k.split('.')[-1]} {v}" for k, v in job.settings.items())
        place = (job.figures["parameters"], job.loss)
        scatter.annotate(label, place, (4, 4), textcoords="offset points", fontsize=6)
    scatter.margins(x=0.35, y=0.15)  # room for the labels
    scatter.xaxis.set_major_formatter(EngFormatter(sep=""))
    scatter.xaxis.set_major_locator(MaxNLocator(5))
    scatter.set_xlabel("parameters")
    scatter.set_ylabel("validation loss, nats a token")
    figure.savefig(path)


def heat_map(axes: Any, jobs: list[Job], down: str, across: str) -> None:
    """The best loss at each pair of values; pairs without a run stay empty."""
    rows, columns = numbers(jobs, down), numbers(jobs, across)
    grid = [[float("nan")] * len(columns) for _ in rows]
    for job in reversed(jobs):  # the best last, so that it stays
        row = rows.index(number(job.settings[down]))
        column = columns.index(number(job.settings[across]))
        grid[row][column] = job.loss
    image = axes.imshow(grid, cmap="viridis_r", aspect="auto")
    middle = (max(j.loss for j in jobs) + min(j.loss for j in jobs)) / 2
    for row, line in enumerate(grid):
        for column, loss in enumerate(line):
            if math.isnan(loss):
                continue
            colour = "white" if loss > middle else "black"
            axes.text(column, row, f"{loss:.3f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.figure.colorbar(image, ax=axes, label="validation loss, nats a token")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    if not read(folder):
        print(f"error: {folder}: holds no finished job of a sweep", file=sys.stderr)
        raise SystemExit(2)
    rank_sweep(folder)


if __name__ == "__main__":
    main()
