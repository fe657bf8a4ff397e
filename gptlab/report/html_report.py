"""Render runs side by side as one self-contained HTML page (template: report.html)."""

import base64
from collections import Counter
from pathlib import Path
from typing import Any

from gptlab.config import sweeps
from gptlab.evaluation.results_store import format_value
from gptlab.report.inspection import ModelInspection, inspect_run
from gptlab.report.load_runs import LoadedRun, differing_settings, format_setting
from gptlab.report.plots import X_AXES, ThemedPlot, loss_curves, plot_on_axes, scaling_plot
from gptlab.report.scaling_law import fit_power_law
from gptlab.report.significance import compare_to_best
from gptlab.report.sweep_ranking import SweepJob, heat_map, parse_overrides, swept_numbers
from gptlab.utils.errors import UserError

MAX_INSPECTED = 4  # models to load, the best ones
STANDARD_ERROR = "/standard_error"
SIZES = {"parameters": "parameters", "compute": "training FLOPs"}
Pictures = dict[str, bytes]  # file name without .png: content


def render_report(
    runs: list[LoadedRun], x_axis: str, prompt: str | None, inspect_models: bool
) -> tuple[str, Pictures]:
    """Return the page and its plots as PNG files; `x_axis` names the tab that is shown first."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pictures: Pictures = {}
    sections = {
        "Runs": runs_section(runs),
        "Curves": curves_section(runs, x_axis, pictures),
        "Sweeps": heat_maps(runs, pictures),
        "Scaling": scaling_section(runs, pictures),
        "Samples": [run for run in runs if run.samples],
        "Evaluation": evaluation_section(runs),
        "Settings": settings_section(runs),
        "Inspection": inspection_section(runs, prompt) if inspect_models else None,
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = StrictUndefined
    environment.filters["data_url"] = data_url
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    shown = {name: content for name, content in sections.items() if content}
    return environment.get_template("report.html").render(title=title, sections=shown), pictures


def data_url(image: bytes) -> str:
    image_type = "png" if image.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{image_type};base64,{base64.b64encode(image).decode()}"


def runs_section(runs: list[LoadedRun]) -> dict[str, Any]:
    heading = ["run", "parameters", "trained on", "steps", "tokens", "validation loss"]
    heading += ["best possible loss", "perplexity", "time"]
    commands = dict.fromkeys(r.summary["command"] for r in runs if "command" in r.summary)
    return {"heading": heading, "rows": map(overview_row, runs), "commands": list(commands)}


def overview_row(run: LoadedRun) -> list[Any]:
    summary, after = run.summary, run.summary.get("after", {})
    steps = [point.step for points in run.metrics.values() for point in points]
    return [
        run.label if summary else f"{run.label} (unfinished)",
        format_value(run.parameters),
        run.config.get("data.source"),
        format_value(summary.get("steps", max(steps, default=None))),
        format_value(summary.get("tokens")),
        format_value(run.loss),
        format_value(run.best_possible),
        format_value(None if run.is_classifier else after.get("valid/perplexity")),
        f"{summary['seconds'] / 60:.1f} min" if "seconds" in summary else "–",
    ]


def curves_section(
    runs: list[LoadedRun], x_axis: str, pictures: Pictures
) -> dict[str, dict[str, ThemedPlot]]:
    """Plot the loss curves over each x-axis; classifiers get their own plot (loss per message)."""
    groups: dict[str, dict[str, ThemedPlot]] = {}
    for kind, is_classifier in (("curves", False), ("classifiers", True)):
        group = [run for run in runs if run.is_classifier == is_classifier and run.metrics]
        for axis in sorted(X_AXES, key=lambda axis: axis != x_axis) if group else []:
            plot = plot_on_axes(loss_curves(axis, group))
            groups.setdefault(kind, {})[axis] = plot
            pictures[f"{kind}_by_{axis}"] = plot.png
    return groups


def heat_maps(runs: list[LoadedRun], pictures: Pictures) -> list[tuple[str, ThemedPlot]]:
    """For each sweep over two or more numbers, plot the best loss at each pair of values."""
    plots = []
    for folder in dict.fromkeys(run.folder.parent for run in runs):
        jobs = [
            SweepJob(0, run.folder, parse_overrides(run.overrides), {"loss": run.loss})
            for run in runs
            if run.folder.parent == folder and run.summary and run.loss is not None
        ]
        if not (folder / sweeps.SWEEP_FILE).is_file() or not jobs:
            continue
        keys = [key for key in jobs[0].settings if swept_numbers(jobs, key)]
        jobs = sorted((j for j in jobs if j.settings.keys() >= set(keys)), key=lambda j: j.loss)
        if len(keys) >= 2:
            plot = plot_on_axes(heat_map(jobs, *keys[:2]), (6, 4))
            plots.append((f"{folder.name}: validation loss by {keys[0]} and {keys[1]}", plot))
            pictures[f"heat_map_{len(plots)}"] = plot.png
    return plots


def scaling_section(runs: list[LoadedRun], pictures: Pictures) -> dict[str, Any] | None:
    """Plot loss against parameters and against compute, for the runs on the commonest corpus."""
    usable = [run for run in runs if run.corpus and run.loss and run.compute]
    if not usable:
        return None
    corpus = Counter(run.corpus for run in usable).most_common(1)[0][0]
    usable = [run for run in usable if run.corpus == corpus]
    floors = {run.best_possible for run in usable}
    floor = (floors.pop() if len(floors) == 1 else None) or 0.0
    y = [(run.loss or 0) - floor for run in usable]
    y_label = "loss above the best possible" if floor else "validation loss"
    y_label += ", nats per token"
    fits = []
    for size, x_label in SIZES.items():
        x = [float(getattr(run, size)) for run in usable]
        if len(set(x)) >= 2:
            law = fit_power_law(x, y)
            plot = plot_on_axes(scaling_plot(usable, x, y, law, x_label, y_label), (7, 4.2))
            fits.append({"size": size, "x_label": x_label, "law": law, "plot": plot})
            pictures[f"scaling_{size}"] = plot.png
    section = {"fits": fits, "corpus": corpus, "y_label": y_label, "runs": len(usable)}
    return section | {"skipped": len(runs) - len(usable)} if fits else None


def evaluation_section(runs: list[LoadedRun]) -> dict[str, Any] | None:
    """List every result, one column per run, and compare the losses."""
    names = list(dict.fromkeys(name for run in runs for name in run.results))
    if not names:
        return None
    rows = [
        [name, *(format_with_error(run.results, name) for run in runs)]
        for name in names
        if not name.endswith(STANDARD_ERROR)
    ]
    if any(run.evaluation for run in runs):
        for fact in ("checkpoint", "step", "corpus"):
            values = (format_value(run.evaluation.get(fact)) for run in runs)
            rows.append([f"gptlab.evaluate: {fact}", *values])
    heading = ["result", *(run.label for run in runs)]
    return {"heading": heading, "rows": rows, "comparison": compare_to_best(runs)}


def format_with_error(results: dict[str, float], name: str) -> str:
    """Format a result, with its standard error where the suite reports one."""
    suite, _, metric = name.rpartition("/")
    error = results.get(suite + STANDARD_ERROR) if metric in ("loss", "acc_norm") else None
    return format_value(results.get(name)) + (f" ± {error:.4f}" if error is not None else "")


def settings_section(runs: list[LoadedRun]) -> dict[str, Any]:
    """List the settings that differ between the runs, then the common ones."""
    differing = differing_settings(runs)
    common = {key: value for key, value in runs[0].config.items() if key not in differing}
    return {
        "heading": ["setting", *(run.label for run in runs)],
        "differing": [[key, *map(format_setting, row)] for key, row in differing.items()],
        "common": [[key, format_setting(value)] for key, value in common.items()],
        "summary": "all settings" if len(runs) == 1 else "settings common to all runs",
    }


def inspection_section(runs: list[LoadedRun], prompt: str | None) -> dict[str, Any] | None:
    """Inspect the best language models.

    Raises UserError if none of their tokenizers can encode the prompt.
    """
    writers = [run for run in runs if not run.is_classifier]
    best = sorted(writers, key=lambda run: float("inf") if run.loss is None else run.loss)
    models: dict[str, ModelInspection | str] = {}
    for run in (run for run in writers if run in best[:MAX_INSPECTED]):
        try:
            models[run.label] = inspect_run(run.folder, prompt)
        except UserError as error:
            models[run.label] = error.line()
            last_error = error
    if not models:
        return None
    if prompt and all(isinstance(model, str) for model in models.values()):
        raise last_error
    return {"models": models, "runs": len(runs), "skipped": len(models) < len(runs)}
