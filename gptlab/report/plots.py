"""Curves of runs, in colours that colour-blind readers can tell apart (Okabe and Ito, 2008)."""

from pathlib import Path

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
Curve = dict[str, list[list[float]]]


def curves(runs: dict[str, Curve], path: Path) -> None:
    """Training loss as a thin line, validation loss as a thick one with points, by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (label, curve) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        validation = curve.get("valid/loss")
        if training := curve.get("train/loss"):
            thin = {"color": colour, "linewidth": 0.8, "alpha": 0.7}
            axes.plot(*zip(*training, strict=True), label=None if validation else label, **thin)
        if validation:
            line = {"color": colour, "linewidth": 2, "marker": "o", "markersize": 4}
            axes.plot(*zip(*validation, strict=True), label=label, **line)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss, nats a token (thin: training, thick: validation)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
