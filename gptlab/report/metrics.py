"""metrics.csv and config.yaml of a run, as reports and cards read them."""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A measured value, and where it stands on each axis."""

    step: int
    tokens: int
    seconds: float  # spent on training steps: what validation and samples took is left out
    value: float


CURVES = ("train/loss", "valid/loss", "valid/best_possible", "train/epoch_loss")


def read_metrics(path: Path) -> dict[str, list[Point]]:
    """The curves of a metrics.csv, as far as they are finite.

    Raises ValueError, KeyError, TypeError or csv.Error for what is none.
    """
    curves: dict[str, list[Point]] = {}
    tokens, seconds = 0, 0.0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if speed := float(row.get("train/tokens_per_second") or 0):
                seconds += (int(row["tokens"]) - tokens) / speed
                tokens = int(row["tokens"])
            for name in CURVES:
                value = float(row.get(name) or "nan")
                if math.isfinite(value):
                    point = Point(int(row["step"]), int(row["tokens"]), seconds, value)
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
