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


class AtomicCheckpointIO(TorchCheckpointIO):
    """A temporary file in the same folder, flushed to disk, then renamed over the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
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


def link(source: Path, path: Path) -> None:
    """The same file under another name, replacing what was there at once; a copy where the
    disk knows no links."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(path)
