"""Print status lines, and format durations."""

import math
import os
import shlex
import subprocess
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


def report_compile_failure(error: Exception) -> None:
    """Print in one line why the model, or its training step, is not compiled."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    print_status(f"not compiled (slower, with the same result): {reason:.300}")


def plural(count: int, noun: str) -> str:
    """Format a count and its noun: `1 layer`, `2 layers`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def shell_quote(word: str) -> str:
    """Quote an argument for the user's shell: on Windows with double quotes, if at all."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)
