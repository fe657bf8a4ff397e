"""How a command ends that does not end well: in one line; a bug keeps its traceback."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator

from gptlab.errors import UserError


@contextlib.contextmanager
def endings(name: str) -> Iterator[None]:
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
        if (line := of_the_machine(error, name)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None


def of_the_machine(error: Exception, name: str = "train") -> str | None:
    """A line for what is no bug: the machine has no memory, or its disk no room or a fault."""
    if is_memory(error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"out of memory ({reason}); {LESS_MEMORY.get(name, 'take a smaller model')}"
    # Of an error in a loader's process only the text is left.
    told = re.search(r"\[Errno (\d+)\]", str(error))
    number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
    if isinstance(error, OSError) and number in DISK:
        what = f"{error.filename}: " if error.filename else ""
        why = os.strerror(number)
        return f"{what}{why}; the last checkpoint is kept: mend the disk, then {GO_ON}"
    return None


DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENXIO, errno.ENODEV}
GO_ON = "go on with resume=latest"
LESS_MEMORY = {
    "evaluate": "take a smaller batch_size or n",
    "train": "take a smaller data.batch_size (with trainer.tokens_per_step), context or model",
    "generate": "take a smaller n or model, or weights=bfloat16",
    "app": "take a smaller model, or weights=bfloat16",
}


def is_memory(error: Exception) -> bool:
    """Whether numpy, torch on the CPU, or torch on a GPU found no memory."""
    told = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, MemoryError) or told or is_gpu_memory(error)


def is_gpu_memory(error: Exception) -> bool:
    texts = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    told = any(text in str(error) for text in texts)
    return type(error).__name__ == "OutOfMemoryError" or told
