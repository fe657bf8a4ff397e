"""Print status lines, and format durations."""

import io
import math
import os
import sys


def replace_unencodable() -> None:
    """Print `?` for characters that the console cannot encode, here and in child processes."""
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:replace"
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr writes escapes instead, by default
        sys.stdout.reconfigure(errors="replace")


def print_status(line: str) -> None:
    """Print to standard error, so that standard output holds results only."""
    print(line, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


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
    advice = "; install a C++ compiler, or leave compilation out: trainer.compile=false"
    hint = advice if "compiler" in reason.lower() else ""
    print_status(f"not compiled (slower, with the same result): {reason:.300}{hint}")


def plural(count: int, noun: str) -> str:
    """Format a count and its noun: `1 layer`, `2 layers`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
