"""Write checkpoints so that a crash cannot corrupt them."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.model.checkpoint import read_checkpoint, verify_checkpoint
from gptlab.utils.errors import UserError
from gptlab.utils.system import flush_folder, rename


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file, flush and verify it, then rename it.

    The last.ckpt that it replaces is kept as previous.ckpt. Loading executes no code.
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
            verify_checkpoint(temporary)
            publish_checkpoint(temporary, path)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with the cause only in its text.
            is_disk_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if is_disk_full or (isinstance(error, RuntimeError) and "write" in str(error)):
                reason = "because the disk is full"
                advice = "free some space, or choose another disk with run_root="
            elif isinstance(error, PermissionError):
                reason = f"({error.strerror})"
                advice = "close programs that have it open, or check who may write there"
            else:
                raise
            raise UserError(
                f"{path}: cannot be written {reason}; the previous checkpoint is kept; {advice}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return dict(read_checkpoint(Path(path)))


def publish_checkpoint(temporary: Path, path: Path) -> None:
    """Rename a complete file to `path`; keep an older `last.ckpt` as `previous.ckpt`."""
    if path.name == "last.ckpt" and path.exists():
        previous = path.with_name("previous.ckpt")
        copy = link_or_copy(path, previous)
        try:
            rename(copy, previous)
        finally:  # a rename keeps both names if they are links to one file
            copy.unlink(missing_ok=True)
    rename(temporary, path)
    flush_folder(path.parent)


def link_or_copy(source: Path, path: Path) -> Path:
    """Link `source` to a temporary name next to `path`; copy it if the disk has no links."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    return temporary
