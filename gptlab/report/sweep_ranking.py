"""Rank the runs of a sweep by validation loss: printed table, sweep.csv and sweep.png.

`python -m gptlab.report.sweep_ranking FOLDER` ranks a sweep that was stopped early.
"""

import csv
import io
import json
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from gptlab.config import sweeps
from gptlab.utils.atomic_io import write_files_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULT_COLUMNS = ("loss", "perplexity", "bits_per_byte", "accuracy", "f1")
RANKING_METRICS = {
    "loss": "validation loss",
    "bits_per_byte": "validation bits per byte, because the vocabularies differ",
}


@dataclass
class SweepJob:
    """One job of a sweep: its settings and its results."""

    number: int
    folder: Path
    settings: dict[str, str]
    results: dict[str, Any] = field(default_factory=dict)
    error: str | None = None  # why the job failed

    @property
    def loss(self) -> float:
        return self.results.get("loss", math.inf)


class SweepRanking(Callback):
    """Hydra callback (conf/train.yaml) that ranks a sweep when all its jobs have ended."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        sweeps.write_sweep_file(Path(config.hydra.sweep.dir).expanduser().absolute())

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        try:
            rank_sweep(Path(config.hydra.sweep.dir).expanduser())
        except Exception:  # Hydra would turn it into a warning and exit with code 0
            traceback.print_exc()
            raise SystemExit(1) from None


def rank_sweep(sweep: Path) -> None:
    """Print the ranking of a sweep folder; write sweep.png, then sweep.csv.

    sweep.csv marks the sweep as finished. Raises SystemExit(2) if a job failed.
    """
    jobs = read_jobs(sweep)
    metric = choose_metric(jobs)
    jobs.sort(key=lambda job: (job.results.get(metric, math.inf), job.number))
    finished = [job for job in jobs if job.error is None]
    if not finished:  # each job has printed its error already
        for job in jobs:
            (job.folder / "failed.json").unlink()
        (sweep / sweeps.SWEEP_FILE).unlink(missing_ok=True)
        raise SystemExit(2)
    rows = ranking_rows(jobs)
    print(f"\nranking, by {RANKING_METRICS[metric]}\n{format_rows(rows)}\n")
    try:
        plot_ranking(finished, sweep / "sweep.png")
    finally:
        sweeps.remove_leftovers(sweep)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        write_files_atomically(sweep, {"sweep.csv": table.getvalue().encode()})
    print(f"written to {sweep}: sweep.csv, sweep.png", flush=True)
    if len(finished) < len(jobs):
        raise SystemExit(2)


def choose_metric(jobs: list[SweepJob]) -> str:
    """Rank by loss per token only if all jobs share one vocabulary."""
    vocabularies = {job.results["vocabulary"] for job in jobs if job.error is None}
    has_bits = any(job.results.get("bits_per_byte") for job in jobs)  # classifiers have none
    return "bits_per_byte" if len(vocabularies) > 1 and has_bits else "loss"


def read_jobs(sweep: Path) -> list[SweepJob]:
    """Read the finished and the failed jobs of a sweep folder."""
    jobs = []
    for folder in sweep.iterdir():
        failed, finished = folder / "failed.json", folder / "summary.json"
        if failed.exists():
            content = json.loads(failed.read_text(encoding="utf-8"))
            error = content["reason"].splitlines()[-1]
            settings = parse_overrides(content["overrides"])
            jobs.append(SweepJob(content["job"], folder, settings, error=error))
        elif finished.exists():
            summary = json.loads(finished.read_text(encoding="utf-8"))
            results = {
                "parameters": summary["parameters"],
                **{name: summary["after"].get(f"valid/{name}") for name in RESULT_COLUMNS},
                "vocabulary": summary["corpus"]["vocabulary"],
                "steps": summary["steps"],
                "seconds": round(summary["seconds"]),
            }
            settings = parse_overrides(summary["overrides"])
            jobs.append(SweepJob(int(folder.name.split(",")[0]), folder, settings, results))
    return jobs


def parse_overrides(overrides: list[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


def ranking_rows(jobs: list[SweepJob]) -> list[dict[str, Any]]:
    """Return one row per ranked job, with the columns of sweep.csv."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings))
    metrics = [n for n in RESULT_COLUMNS if any(job.results.get(n) is not None for job in jobs)]
    return [
        {
            "rank": rank if job.error is None else "",
            "job": job.number,
            **{key: job.settings.get(key, "") for key in keys},
            **{n: job.results.get(n, "") for n in ("parameters", *metrics, "steps", "seconds")},
            "folder": job.folder.name,
            "failed": job.error or "",
        }
        for rank, job in enumerate(jobs, 1)
    ]


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Align the ranking in columns; print a failed job's error below its row."""
    names = [name for name in rows[0] if name not in ("folder", "failed")]
    cells = [names, *([format_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row, texts in zip([{}, *rows], cells, strict=True):
        aligned = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
        lines.append("  " + "  ".join(aligned).rstrip())
        if row.get("failed"):
            lines.append(f"  {'failed:':>{widths[0]}}  {row['failed']}")
    return "\n".join(lines)


def format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def parse_number(text: str) -> float:
    """Parse an int or float; raises ValueError for other texts."""
    number = float(text)
    return int(number) if number.is_integer() else number


def swept_numbers(jobs: list[SweepJob], key: str) -> list[float]:
    """Return the sorted values of a numeric swept key; empty for words, seeds and single values."""
    try:
        values = {parse_number(job.settings[key]) for job in jobs if key in job.settings}
    except ValueError:
        return []
    return sorted(values) if len(values) > 1 and key != "seed" else []


def plot_ranking(jobs: list[SweepJob], path: Path) -> None:
    """Plot loss against parameters, and a heat map over the first two swept numbers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    keys = [key for key in jobs[0].settings if swept_numbers(jobs, key)]
    panels = 2 if len(keys) >= 2 else 1
    figure = Figure(figsize=(5.2 * panels, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if panels == 2:
        heat_map(jobs, *keys[:2])(axes[0], [])
    scatter = axes[-1]
    sizes = [job.results["parameters"] for job in jobs]
    scatter.scatter(sizes, [job.loss for job in jobs], color="#0072b2")
    for size, job in zip(sizes, jobs, strict=True):
        label = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in job.settings.items())
        scatter.annotate(label, (size, job.loss), (4, 4), textcoords="offset points", fontsize=6)
    scatter.margins(x=0.35, y=0.15)  # room for the labels
    scatter.xaxis.set_major_formatter(EngFormatter(sep=""))
    scatter.xaxis.set_major_locator(MaxNLocator(5))
    scatter.set_xlabel("parameters")
    scatter.set_ylabel("validation loss, nats per token")
    figure.savefig(path)


def heat_map(
    jobs: list[SweepJob], row_key: str, column_key: str
) -> Callable[["Axes", list[str]], None]:
    """Draw the best loss for each pair of values; a pair without a run stays empty.

    `jobs` are sorted, the best first.
    """
    rows, columns = swept_numbers(jobs, row_key), swept_numbers(jobs, column_key)
    grid = [[math.nan] * len(columns) for _ in rows]
    for job in reversed(jobs):  # the best is written last
        row = rows.index(parse_number(job.settings[row_key]))
        column = columns.index(parse_number(job.settings[column_key]))
        grid[row][column] = job.loss
    middle = (max(j.loss for j in jobs) + min(j.loss for j in jobs)) / 2

    def draw(axes: "Axes", _: list[str]) -> None:
        image = axes.imshow(grid, cmap="viridis_r", aspect="auto")
        for row, losses in enumerate(grid):
            for column, loss in enumerate(losses):
                if not math.isnan(loss):
                    color = "white" if loss > middle else "black"
                    axes.text(column, row, f"{loss:.3f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(columns)), list(map(str, columns)))
        axes.set_yticks(range(len(rows)), list(map(str, rows)))
        axes.set_xlabel(column_key)
        axes.set_ylabel(row_key)
        axes.figure.colorbar(image, ax=axes, label="validation loss, nats per token")

    return draw


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    if not read_jobs(folder):
        print(f"error: {folder}: contains no finished job of a sweep", file=sys.stderr)
        raise SystemExit(2)
    rank_sweep(folder)


if __name__ == "__main__":
    main()
