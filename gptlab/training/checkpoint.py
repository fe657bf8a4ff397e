"""Checkpoints are written so that a crash in the middle leaves the one before."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.errors import UserError
from gptlab.model import checkpoint as reading


class AtomicCheckpointIO(TorchCheckpointIO):
    """A temporary file in the same folder, flushed, verified, then renamed over the old one.

    Of `last.ckpt` the one before is kept, as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            reading.verify(temporary)
            replace(temporary, path)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with the cause only in its text
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if isinstance(error, RuntimeError) and "write" not in str(error):
                raise
            raise UserError(
                f"{path}: cannot be written, the disk is full; the checkpoint before it is kept; "
                "make room, or choose another disk with run_root="
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing in the file is executed."""
        return dict(reading.read(Path(path)))


def replace(temporary: Path, path: Path) -> None:
    """Gives a finished file its name at once, and keeps the `last.ckpt` that had it before."""
    if path.name == "last.ckpt" and path.exists():
        previous = path.with_name("previous.ckpt")
        kept = copy(path, previous)
        kept.replace(previous)
        kept.unlink(missing_ok=True)  # of two names for one file the second stays
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)


def copy(source: Path, path: Path) -> Path:
    """A second, temporary name for a file, beside `path`: a link, where the disk knows them."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    return temporary
