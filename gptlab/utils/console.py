"""Print status lines, and format durations."""

import math
import sys


def print_status(line: str) -> None:
    """Print to standard error, so that standard output holds results only."""
    print(line, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Format seconds as `42 s`, `3 min 20 s` or `5 h 10 min`."""
    seconds = max(0, math.ceil(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
