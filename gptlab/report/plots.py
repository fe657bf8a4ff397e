"""Plots of runs for light and dark pages.

Colors from Okabe and Ito (2008), "Color Universal Design", readable with color blindness; when they
run out, lines differ in their dashes.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.report.load_runs import LoadedRun, MetricPoint
from gptlab.report.scaling_law import PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
DARK_COLORS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#ffffff"]
DASHES, MARKERS = ["-", "--", "-.", ":"], ["o", "s", "^", "D"]
MAX_LEGEND = 14  # with more runs, the legend lists the best

X_AXES: dict[str, tuple[str, Callable[[MetricPoint], float]]] = {
    "steps": ("optimizer steps", lambda point: point.step),
    "tokens": ("tokens trained on", lambda point: point.tokens),
    "time": ("seconds of training", lambda point: point.seconds),
}

Floats = list[float]
Points = Sequence[Sequence[float]]  # (x, y) pairs
DrawAxes = Callable[["Axes", list[str]], None]  # axes and the theme's colors
MakeFigure = Callable[[list[str]], "Figure"]  # the theme's colors


@dataclass
class ThemedPlot:
    """One plot drawn for both themes; `png` is the light one as a file."""

    light: bytes
    dark: bytes
    png: bytes


def plot_in_themes(make: MakeFigure, image_format: str = "svg") -> ThemedPlot:
    """Call `make` with the colors of each theme and render its figures."""
    formats = dict.fromkeys([image_format, "png"])
    light = make_with_theme(make, "#333333", "#ffffff", COLORS, formats)
    dark = make_with_theme(make, "#c8ccd0", "#16191d", DARK_COLORS, [image_format])
    return ThemedPlot(light[0], dark[0], light[-1])


def plot_on_axes(draw: DrawAxes, size: tuple[float, float] = (8, 4.2)) -> ThemedPlot:
    """Render a plot with a single pair of axes in both themes."""
    from matplotlib.figure import Figure

    def make(colors: list[str]) -> "Figure":
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), colors)
        return figure

    return plot_in_themes(make)


def make_with_theme(
    make: MakeFigure, foreground: str, background: str, colors: list[str], formats: Iterable[str]
) -> list[bytes]:
    """Render the figure once per format, with these colors for text, background and lines."""
    import matplotlib

    lines = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    areas = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    style: dict[Any, Any] = {
        **dict.fromkeys((*lines, "grid.color"), foreground),
        **dict.fromkeys(areas, background),
        **{"axes.spines.top": False, "axes.spines.right": False, "legend.edgecolor": "none"},
        **{"svg.fonttype": "none", "svg.hashsalt": "gptlab", "font.family": "sans-serif"},
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = make(colors)
        return [figure_bytes(figure, each) for each in formats]


def figure_bytes(figure: "Figure", image_format: str) -> bytes:
    """Render a figure without dates, so that equal plots give equal bytes."""
    file = io.BytesIO()
    metadata = {"Date": None} if image_format == "svg" else {"Software": None}
    dpi = 150 if image_format == "png" else 100
    figure.savefig(file, format=image_format, dpi=dpi, metadata=metadata)
    return file.getvalue()


def loss_curves(x_axis: str, runs: list[LoadedRun]) -> DrawAxes:
    """Draw each run's loss over steps, tokens or time, and lines at the best possible losses."""
    label, position = X_AXES[x_axis]

    def draw(axes: "Axes", colors: list[str]) -> None:
        labels = legend_labels(runs)
        for number, run in enumerate(runs):
            color, dashes = colors[number % len(colors)], DASHES[number // len(colors) % 4]
            training, validation = (
                [(position(point), point.value) for point in run.metrics.get(name, [])]
                for name in ("train/loss", "valid/loss")
            )
            draw_losses(axes, training, validation, labels.get(run.label), color, dashes)
        floors = {loss for run in runs if (loss := run.best_possible) is not None}
        for loss in merge_close(floors):
            axes.axhline(loss, color=colors[-1], linewidth=1, linestyle=(0, (1, 2)))
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            text = f"best possible {loss:.3f}"
            axes.annotate(text, (1, loss), (0, 3), textcoords="offset points", fontsize=8, **place)
        if top := loss_axis_top(runs):
            axes.set_ylim(top=top)
        axes.set_xlabel(label)
        unit = "message" if runs[0].is_classifier else "token"
        axes.set_ylabel(f"loss, nats per {unit} (thin: training)")
        axes.grid(alpha=0.15)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)

    return draw


def draw_losses(
    axes: "Axes", training: Points, validation: Points, label: str | None, color: str, dashes: str
) -> None:
    """Draw training loss as a thin line and validation loss as a thick line with points."""
    line: dict[str, Any] = {"color": color, "linestyle": dashes}
    if training:
        x, y = zip(*training, strict=True)
        axes.plot(x, y, linewidth=0.8, alpha=0.7, label=None if validation else label, **line)
    if validation:
        x, y = zip(*validation, strict=True)
        axes.plot(x, y, linewidth=2, marker="o", markersize=4, label=label, **line)


def legend_labels(runs: list[LoadedRun]) -> dict[str, str]:
    """Map the labels of the best runs to the text that matplotlib shows literally."""
    ranked = sorted(runs, key=lambda run: float("inf") if run.loss is None else run.loss)
    # A dollar starts a formula, and a leading underscore hides a legend entry.
    texts = {run.label: run.label.replace("$", r"\$") for run in ranked[:MAX_LEGEND]}
    return {label: f"\u200b{text}" if text[0] == "_" else text for label, text in texts.items()}


def loss_axis_top(runs: list[LoadedRun]) -> float | None:
    """Cut off the loss axis above the typical first validation loss.

    The first steps and diverged runs are far above it and would flatten all other curves.
    """
    curves = ([p for p in run.metrics.get("valid/loss", []) if p.step] for run in runs)
    first_losses = sorted(curve[0].value for curve in curves if curve)
    return 1.3 * first_losses[(len(first_losses) - 1) // 2] if first_losses else None


def merge_close(values: set[float]) -> list[float]:
    """Keep one of several values within 1 % of each other."""
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value > 1.01 * kept[-1]:
            kept.append(value)
    return kept


def scaling_plot(
    runs: list[LoadedRun], x: Floats, y: Floats, law: PowerLaw | None, x_label: str, y_label: str
) -> DrawAxes:
    """Draw each run's loss against its size on logarithmic axes, with the fitted power law."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    labels = legend_labels(runs)

    def draw(axes: "Axes", colors: list[str]) -> None:
        for number, (run, size, loss) in enumerate(zip(runs, x, y, strict=True)):
            color, marker = colors[number % len(colors)], MARKERS[number // len(colors) % 4]
            label = labels.get(run.label)
            axes.plot(size, loss, marker, color=color, markersize=7, label=label)
        if law:
            line_x = np.geomspace(min(x) / 1.2, max(x) * 1.2)
            axes.plot(line_x, law.curve(line_x), color=colors[-1], linewidth=1)
            axes.fill_between(line_x, *law.band(line_x), color=colors[-1], alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(x=0.2, y=0.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.15)
        axes.figure.legend(loc="outside right upper", fontsize=8)

    return draw


def save_card_curves(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Plot the stored curves of an experiment's runs by step, for its card."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (label, curve) in enumerate(curves.items()):
        training, validation = curve.get("train/loss", []), curve.get("valid/loss", [])
        draw_losses(axes, training, validation, label, COLORS[number % len(COLORS)], "-")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss, nats per token (thin: training, thick: validation)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
