"""Turn expected failures into one-line errors."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from gptlab.utils.console import replace_unencodable

DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS),
    *(errno.ESTALE, errno.ENXIO, errno.ENODEV),
}
MEMORY_HINTS = {
    "evaluate": "use a smaller batch_size or num_samples",
    "train": "use a smaller data.batch_size (with trainer.tokens_per_step), context or model",
    "generate": "use a smaller num_samples or model, or weight_dtype=bfloat16",
    "app": "use a smaller model, or weight_dtype=bfloat16",
}


class UserError(Exception):
    """A user's mistake; commands print it as one line and exit with code 2."""

    def line(self) -> str:
        """Return the message with unprintable characters escaped as in Python source."""
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(self))

    def _render_traceback_(self) -> list[str]:
        """Let IPython and notebooks show the line without a traceback."""
        return [f"error: {self.line()}"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'seed'?` for a similar known word, otherwise an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def invalid_choice(key: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a value that is not among the known ones."""
    suggestion = did_you_mean(str(name), known)
    return f"{key}={name}: invalid choice; choose from {', '.join(known)}{suggestion}"


@contextlib.contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Print expected failures of a command as one line and exit.

    Exit codes: 2 for a UserError or a lack of memory or disk space, 130 for Ctrl-C, 1 if the
    reader of the output has closed the pipe. Other exceptions are bugs and pass through.
    Characters that the console cannot encode are replaced.
    """
    replace_unencodable()
    try:
        yield
    except BrokenPipeError:  # as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if (line := failure_line(error, command)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Raise the expected failures of a command, such as a full disk, as a UserError."""
    try:
        yield
    except Exception as error:
        line = failure_line(error, command)
        if line is None or isinstance(error, UserError):
            raise
        raise UserError(line) from error


def failure_line(error: Exception, command: str = "train") -> str | None:
    """Describe a UserError, lack of memory, or full or faulty disk in one line; None for bugs."""
    if isinstance(error, UserError):
        return error.line()
    if is_out_of_memory(error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"out of memory ({reason}); {MEMORY_HINTS.get(command, 'use a smaller model')}"
    # An error in a DataLoader's worker process arrives as text only.
    match = re.search(r"\[Errno (\d+)\]", str(error))
    number = getattr(error, "errno", None) or (int(match[1]) if match else 0)
    if isinstance(error, OSError) and number in DISK_ERRORS:
        path = f"{error.filename}: " if error.filename else ""
        training = "the last checkpoint is intact: fix the disk, then continue with resume=latest"
        advice = training if command == "train" else "fix the disk, then type the command again"
        return f"{path}{os.strerror(number)}; {advice}"
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch on the CPU, or torch on a GPU could not allocate memory."""
    on_cpu = re.search("can't allocate memory|not enough memory", str(error))
    return bool(on_cpu) or isinstance(error, MemoryError) or is_gpu_out_of_memory(error)


def is_gpu_out_of_memory(error: Exception) -> bool:
    texts = re.search(
        "(CUDA error:|MPS backend) out of memory|CUBLAS_STATUS_ALLOC_FAILED", str(error)
    )
    return bool(texts) or type(error).__name__ == "OutOfMemoryError"
