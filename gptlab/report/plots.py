"""Pictures of runs, for light and dark pages, in colours that colour-blind readers can tell apart.

The colours are those of Okabe and Ito (2008), "Color Universal Design"; where they are used up,
lines differ in their dashes.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.report.load_runs import LoadedRun, MetricPoint
from gptlab.report.scaling_law import PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
ON_DARK = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#ffffff"]
THEMES = {"light": ("#333333", "#ffffff", COLOURS), "dark": ("#c8ccd0", "#16191d", ON_DARK)}
DASHES, MARKERS = ["-", "--", "-.", ":"], ["o", "s", "^", "D"]
NAMED = 14  # runs that have a line of their own in a legend: of more, the best
Curve = dict[str, list[list[float]]]
Draw = Callable[["Axes", list[str]], None]  # with the theme's colours


def render(make: Callable[[list[str]], "Figure"], form: str = "svg") -> dict[str, bytes]:
    """What `make` draws with a theme's colours: `light` and `dark`; the light one as `png` too."""
    import matplotlib

    pictures = {}
    for name, (ink, paper, colours) in THEMES.items():
        with matplotlib.rc_context(style(ink, paper)), warnings.catch_warnings():
            # A letter that the font lacks is a box: no matter.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure = make(colours)
            pictures[name] = saved(figure, form)
            if name == "light":
                pictures["png"] = saved(figure, "png")
    return pictures


def on_axes(draw: Draw, size: tuple[float, float] = (8, 4.2)) -> dict[str, bytes]:
    """`render` for a picture with one pair of axes."""
    from matplotlib.figure import Figure

    def make(colours: list[str]) -> "Figure":
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), colours)
        return figure

    return render(make)


def style(ink: str, paper: str) -> dict[str, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys((*inked, "grid.color"), ink),
        **dict.fromkeys(papers, paper),
        **{"axes.spines.top": False, "axes.spines.right": False, "legend.edgecolor": "none"},
        **{"svg.fonttype": "none", "svg.hashsalt": "gptlab", "font.family": "sans-serif"},
    }


def saved(figure: "Figure", form: str) -> bytes:
    """The same bytes each time."""
    file = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(file, format=form, dpi=150 if form == "png" else 100, metadata=metadata)
    return file.getvalue()


AXES: dict[str, tuple[str, Callable[[MetricPoint], float]]] = {
    "steps": ("optimizer steps", lambda point: point.step),
    "tokens": ("tokens trained on", lambda point: point.tokens),
    "time": ("seconds of training", lambda point: point.seconds),
}


def curves_over(axis: str, runs: list[LoadedRun]) -> Draw:
    """Loss curves over steps, tokens or time, each with its best possible line."""

    def draw(axes: "Axes", colours: list[str]) -> None:
        named = names(runs)
        for number, run in enumerate(runs):
            look = {"color": colours[number % len(colours)]}
            look["linestyle"] = DASHES[number // len(colours) % len(DASHES)]
            draw_curve(axes, run, axis, look, named.get(run.label))
        for floor in apart({run.best_possible for run in runs} - {None}):
            axes.axhline(floor, color=colours[-1], linewidth=1, linestyle=(0, (1, 2)))
            words = {"textcoords": "offset points", "ha": "right", "fontsize": 8}
            at = ("axes fraction", "data")
            axes.annotate(f"best possible {floor:.3f}", (1, floor), (0, 3), xycoords=at, **words)
        if top := highest(runs):
            axes.set_ylim(top=top)
        axes.set_xlabel(AXES[axis][0])
        what = "message" if runs[0].classifies else "token"
        axes.set_ylabel(f"loss, nats a {what} (thin: training)")
        axes.grid(alpha=0.15)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)

    return draw


def names(runs: list[LoadedRun]) -> dict[str, str]:
    """What a legend says of the best runs, by their labels, to the letter."""
    ranked = sorted(runs, key=lambda run: float("inf") if run.loss is None else run.loss)
    # A dollar would begin a formula, and a leading underscore hides a line.
    told = {run.label: run.label.replace("$", r"\$") for run in ranked[:NAMED]}
    return {label: f"\u200b{text}" if text[0] == "_" else text for label, text in told.items()}


def highest(runs: list[LoadedRun]) -> float | None:
    """Where the axis of losses ends: the first steps, and runs that diverged, are far above and
    would press the rest together."""
    firsts = [
        next((p.value for p in run.metrics.get("valid/loss", []) if p.step), None) for run in runs
    ]
    found = sorted(value for value in firsts if value is not None)
    return 1.3 * found[(len(found) - 1) // 2] if found else None


def apart(floors: set[float]) -> list[float]:
    """Of numbers that could not be told apart in a picture, one."""
    kept: list[float] = []
    for floor in sorted(floors):
        if not kept or floor > 1.01 * kept[-1]:
            kept.append(floor)
    return kept


def draw_curve(
    axes: "Axes", run: LoadedRun, axis: str, look: dict[str, str], label: str | None
) -> None:
    at = AXES[axis][1]
    training, validation = (
        [(at(point), point.value) for point in run.metrics.get(name, [])]
        for name in ("train/loss", "valid/loss")
    )
    two_lines(axes, training, validation, look, label)


Line = Sequence[Sequence[float]]  # pairs


def two_lines(
    axes: "Axes", training: Line, validation: Line, look: dict[str, str], label: str | None
) -> None:
    """Training loss as a thin line, validation loss as a thick one with points."""
    if training:
        thin = {"linewidth": 0.8, "alpha": 0.7, "label": None if validation else label}
        axes.plot(*zip(*training, strict=True), **look, **thin)
    if validation:
        thick = {"linewidth": 2, "marker": "o", "markersize": 4, "label": label}
        axes.plot(*zip(*validation, strict=True), **look, **thick)


def scaling(
    runs: list[LoadedRun], x: list[float], y: list[float], law: PowerLaw | None, words: str, of: str
) -> Draw:
    """Loss against a size, each run a point, on logarithmic axes; with the fitted law."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    named = names(runs)

    def draw(axes: "Axes", colours: list[str]) -> None:
        for number, (run, across, up) in enumerate(zip(runs, x, y, strict=True)):
            look = {"color": colours[number % len(colours)], "linestyle": "none", "markersize": 7}
            marker = MARKERS[number // len(colours) % len(MARKERS)]
            axes.plot(across, up, marker=marker, label=named.get(run.label), **look)
        if law:
            along = np.geomspace(min(x) / 1.2, max(x) * 1.2)
            axes.plot(along, law.curve(along), color=colours[-1], linewidth=1)
            axes.fill_between(along, *law.band(along), color=colours[-1], alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(x=0.2, y=0.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(words)
        axes.set_ylabel(of)
        axes.grid(alpha=0.15)
        axes.figure.legend(loc="outside right upper", fontsize=8)

    return draw


def curves(runs: dict[str, Curve], path: Path) -> None:
    """Of the cards: training loss thin, validation loss thick with points, by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (label, curve) in enumerate(runs.items()):
        look = {"color": COLOURS[number % len(COLOURS)]}
        two_lines(axes, curve.get("train/loss", []), curve.get("valid/loss", []), look, label)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss, nats a token (thin: training, thick: validation)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
