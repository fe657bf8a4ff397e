"""Folders that appear whole or not at all, and lines for the person at the terminal."""

import contextlib
import errno
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from gptlab.utils.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_ENTRY = (
    *(errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG),
)


@contextlib.contextmanager
def atomic_folder(final: Path, key: str = "corpus_root") -> Iterator[Path]:
    """A folder to build in, renamed to `final` when the block ends well and removed when not.

    Two processes may build the same corpus: the first to finish wins, the other's is dropped.
    Raises UserError for a full disk or a folder that cannot be written.
    """
    building = final.parent / f".{final.name}.{platform.node()}.{os.getpid()}.building"
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
        if error.errno not in (*NO_SPACE, *NO_ENTRY):
            raise
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); nothing was kept; "
            f"choose another place with {key}="
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_abandoned(final: Path) -> None:
    """Removes what killed processes of this machine left of this folder."""
    for left in final.parent.glob(f".{final.name}.{platform.node()}.*.building"):
        if not process_is_alive(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)


def process_is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_files_atomically(folder: Path, files: dict[str, bytes]) -> None:
    """All of these files, or none."""
    temporary = {folder / name: folder / f".{name}.tmp" for name in files}
    try:
        for aside, content in zip(temporary.values(), files.values(), strict=True):
            aside.write_bytes(content)
        for place, aside in temporary.items():
            aside.replace(place)
    finally:
        for aside in temporary.values():
            aside.unlink(missing_ok=True)


def publish_checkpoint(temporary: Path, path: Path) -> None:
    """Gives a finished file its name at once, and keeps the `last.ckpt` that had it before."""
    if path.name == "last.ckpt" and path.exists():
        previous = path.with_name("previous.ckpt")
        kept = link_or_copy(path, previous)
        kept.replace(previous)
        kept.unlink(missing_ok=True)  # of two names for one file the second stays
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)


def link_or_copy(source: Path, path: Path) -> Path:
    """A second, temporary name for a file, beside `path`: a link, where the disk knows them."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    return temporary
