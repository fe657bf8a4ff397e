"""Folders that appear whole or not at all, and lines for the person at the terminal."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gptlab.errors import UserError


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A folder to build in, renamed to `final` when the block ends well and removed when not.

    Two processes may build the same corpus: the first to finish wins, the other's is dropped.
    Raises UserError for a full disk or a folder that cannot be written.
    """
    building = final.parent / f".{final.name}.{os.getpid()}.building"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        yield building
        with contextlib.suppress(OSError):  # the target exists: somebody else was faster
            building.rename(final)
        if not final.is_dir():
            raise UserError(f"{final}: cannot be created")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM):
            raise
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); nothing was kept; "
            "choose another disk with corpus_root="
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_abandoned(final: Path) -> None:
    """Removes what killed processes left of this corpus."""
    for left in final.parent.glob(f".{final.name}.*.building"):
        process = left.name.split(".")[-2]
        if not Path(f"/proc/{process}").exists() and not alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
