"""The one exception that a user's mistake becomes, and the words that help to mend it."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the user's. Commands show it as one line and exit with code 2."""

    def line(self) -> str:
        """The message with what a terminal would not show as a letter in Python's notation."""
        shown = (c if c.isprintable() else ascii(c)[1:-1] for c in str(self))
        return "".join(shown)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'seed'?` where a known word is near, otherwise nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def resolve_choice(key: str, name: str, table: Mapping[str, T]) -> T:
    """The table's entry of that name; raises UserError with the list of choices."""
    if name not in table:
        raise UserError(
            f"{key}={name}: invalid choice; choose from {', '.join(table)}"
            f"{did_you_mean(str(name), table)}"
        )
    return table[name]


@contextlib.contextmanager
def exit_on_error(name: str) -> Iterator[None]:
    """Around all of a command: a user's mistake, a full disk or memory: one line, exit code 2;
    where it is stopped, or its reader has left, it ends quietly."""
    try:
        yield
    except UserError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output has left: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if (line := describe_resource_error(error, name)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None


def describe_resource_error(error: Exception, name: str = "train") -> str | None:
    """A line for what is no bug: the machine has no memory, or its disk no room or a fault."""
    if is_out_of_memory(error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"out of memory ({reason}); {MEMORY_HINTS.get(name, 'take a smaller model')}"
    # Of an error in a loader's process only the text is left.
    told = re.search(r"\[Errno (\d+)\]", str(error))
    number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
    if isinstance(error, OSError) and number in DISK_ERRORS:
        what = f"{error.filename}: " if error.filename else ""
        why = os.strerror(number)
        return f"{what}{why}; the last checkpoint is kept: mend the disk, then {RESUME_HINT}"
    return None


DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENXIO,
    errno.ENODEV,
}
RESUME_HINT = "go on with resume=latest"
MEMORY_HINTS = {
    "evaluate": "take a smaller batch_size or n",
    "train": "take a smaller data.batch_size (with trainer.tokens_per_step), context or model",
    "generate": "take a smaller n or model, or weight_dtype=bfloat16",
    "app": "take a smaller model, or weight_dtype=bfloat16",
}


def is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch on the CPU, or torch on a GPU found no memory."""
    told = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, MemoryError) or told or is_gpu_out_of_memory(error)


def is_gpu_out_of_memory(error: Exception) -> bool:
    texts = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    told = any(text in str(error) for text in texts)
    return type(error).__name__ == "OutOfMemoryError" or told
