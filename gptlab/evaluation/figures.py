"""Figures by name, as suites give them and reports show them."""

from typing import Any

Figures = dict[str, Any]  # nested at most once


def flat(figures: Figures, prefix: str = "") -> dict[str, float]:
    """The numbers of nested figures, as `suite/part/name`; facts beside the suites are left out."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and prefix:
            found[prefix + name] = value
    return found


def shown(value: Any) -> str:
    """Whole numbers with their thousands, others to four places."""
    if isinstance(value, float):
        if value.is_integer() and abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
