"""Write folders and files that appear complete or not at all."""

import contextlib
import errno
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from gptlab.utils.errors import UserError
from gptlab.utils.system import rename

UNWRITABLE = {  # a full disk, no permission, or no valid path
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR),
    *(errno.EEXIST, errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG),
}


@contextlib.contextmanager
def atomic_folder(final: Path, key: str = "corpus_root") -> Iterator[Path]:
    """Yield a folder to build in; rename it to `final` at the end, remove it on failure.

    If two processes build the same folder, the first one wins and the other's copy is dropped.
    Raises UserError for a full disk or a place that cannot be written.
    """
    building = final.parent / f".{final.name}.{platform.node()}.{os.getpid()}.building"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned_builds(final)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        yield building
        with contextlib.suppress(OSError):  # another process built it first
            rename(building, final)
        if not final.is_dir():
            raise UserError(f"{final}: cannot be created")
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); nothing was kept; "
            f"choose another place with {key}="
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_abandoned_builds(final: Path) -> None:
    """Remove unfinished builds of killed processes on this machine."""
    for building in final.parent.glob(f".{final.name}.{platform.node()}.*.building"):
        if not psutil.pid_exists(int(building.name.split(".")[-2])):
            shutil.rmtree(building, ignore_errors=True)


def write_files_atomically(folder: Path, files: dict[str, bytes]) -> None:
    """Write all of these files (name to content), or none if one cannot be written."""
    temporary_paths = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, content in files.items():
            temporary_paths[name].write_bytes(content)
        for name, temporary in temporary_paths.items():
            rename(temporary, folder / name)
    finally:
        for temporary in temporary_paths.values():
            temporary.unlink(missing_ok=True)
