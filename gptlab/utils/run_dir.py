"""Run folders: `<run_root>/<date>_<time>_<name>/`, everything about one run."""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from gptlab.utils.atomic_io import process_is_alive
from gptlab.utils.errors import UserError, did_you_mean

CHECKPOINT_NAMES = ("best.ckpt", "last.ckpt")
BASELINE_SUFFIX = "_random"  # ends the name of a run that was trained beside another, to compare
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder of a model without a run


def safe_name(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.=,-]+", "-", name).strip("-.")[:120]


def reserve_run_dir(root: Path, name: str) -> Path:
    """The path of a new run folder, which is not there yet; its content grows in `hidden(path)`.

    Where there is a folder of that name already, the new one gets a number. Raises UserError
    where it cannot be made.
    """
    stem = safe_name(name)
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        remove_abandoned(folder)
        if not make_folder(staging_dir(folder), root):  # of a run that begins beside this one
            continue
        (staging_dir(folder) / OWNER_FILE).write_text(f"{platform.node()} {os.getpid()}")
        if not folder.exists():
            return folder
        discard_staging_dir(folder)
    raise UserError(f"run_root={root}: no run folder can be made here")


def make_folder(folder: Path, root: Path) -> bool:
    """Makes it, or tells that it is there; raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if folder.is_dir():
            return False
        raise UserError(f"run_root={root}: no run folder can be made here") from None
    except OSError as error:
        raise UserError(f"run_root={root}: cannot be written ({error.strerror})") from None
    return True


OWNER_FILE = ".owner"  # names the process that makes a run folder


def staging_dir(folder: Path) -> Path:
    """Where a run folder is until its first checkpoint stands in it."""
    return folder.with_name(f".{folder.name}.new")


def publish_run_dir(folder: Path) -> None:
    """Makes a reserved run folder appear, with all that is in it."""
    (staging_dir(folder) / OWNER_FILE).unlink()
    staging_dir(folder).rename(folder)


def discard_staging_dir(folder: Path) -> None:
    """Takes a reservation back: of a run that did not begin."""
    shutil.rmtree(staging_dir(folder), ignore_errors=True)
    with contextlib.suppress(OSError):  # other runs are in it
        folder.parent.rmdir()


def remove_abandoned(folder: Path) -> None:
    """Removes what a killed process of this machine left of this reservation."""
    with contextlib.suppress(OSError, ValueError):
        node, process = (staging_dir(folder) / OWNER_FILE).read_text().rsplit(" ", 1)
        if node == platform.node() and not process_is_alive(int(process)):
            shutil.rmtree(staging_dir(folder), ignore_errors=True)


def find_checkpoint(run: str, run_root: str, key: str = "run") -> Path:
    """The checkpoint that `run=` (or another key) means: `latest`, a run folder, or the file.

    Of a folder, the best by validation loss, otherwise the last; or the folder itself, if it is
    that of an exported model. Raises UserError if there is none.
    """
    path = locate_run(key, run, run_root)
    if run == "latest":
        return latest_checkpoint(path)
    if path.is_file():
        return path
    found = preferred_checkpoint(path) or (path if is_weights_path(path) else None)
    if found is None:
        raise UserError(
            f"{key}={run}: this folder has no checkpoint (looked for checkpoints/best.ckpt and "
            "last.ckpt); name another, or train with `python train.py`"
        )
    return found


def locate_run(key: str, run: str, run_root: str) -> Path:
    """What `run=` or `resume=` names, by its path or its name; for `latest`, where runs are.

    Raises UserError if there is nothing.
    """
    try:
        root, path = Path(run_root).expanduser(), Path(run).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        raise UserError(f"{key}={run:.200}: {str(error).splitlines()[0]:.200}") from None
    if run == "latest":
        return root
    if not path.exists() and (root / run).exists():
        path = root / run
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")])
        raise UserError(f"{key}={run}: there is no such run folder or checkpoint{near}")
    return path


def preferred_checkpoint(folder: Path) -> Path | None:
    paths = (folder / "checkpoints" / name for name in CHECKPOINT_NAMES)
    return next((path for path in paths if path.is_file()), None)


def is_weights_path(path: Path) -> bool:
    """Whether this is a folder with weights, or a file of them."""
    if path.is_dir():
        return any((path / name).is_file() for name in WEIGHT_FILES)
    return path.is_file() and path.suffix in (".safetensors", ".bin")


def latest_checkpoint(root: Path) -> Path:
    """The newest run's checkpoint, jobs of sweeps included; a run's baseline only if there is no
    other."""
    folders = sort_newest_first([*root.glob("*"), *root.glob("*_sweep/*")])
    for folder in sorted(folders, key=lambda folder: folder.name.endswith(BASELINE_SUFFIX)):
        if found := preferred_checkpoint(folder):
            return found
    raise UserError(f"run=latest: no run with a checkpoint in {root}; `python train.py` makes one")


def start_time(folder: Path) -> float:
    """When a run or sweep began, by the first thing written; raises OSError where there is none."""
    for name in ("config.yaml", "sweep.json"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (folder / name).stat().st_mtime
    raise FileNotFoundError(folder)


def find_unfinished(run: str, run_root: str) -> Path | None:
    """The folder that `resume=` means: the one named, or of `latest` the newest unfinished one.

    None where every run is finished; raises UserError where there is none at all.
    """
    path = locate_run("resume", run, run_root)
    if run != "latest":
        return path.parent.parent if path.is_file() else path
    folders = sort_newest_first([*path.glob("*"), *path.glob("*_sweep/*")])
    if not folders:
        raise UserError(f"resume=latest: there is no run in {path}; `python train.py` makes one")
    rest = [folder for folder in folders if not is_finished(folder)]
    stopped = (folder for folder in rest if not (is_locked(folder) or is_locked(folder.parent)))
    return next(stopped, rest[0] if rest else None)


def sort_newest_first(folders: list[Path]) -> list[Path]:
    """Of these, those that hold a run or a sweep, the latest begun first."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):  # one that is being removed
            if folder.name[0] != ".":
                found.append((start_time(folder), folder.name, folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


def is_finished(folder: Path) -> bool:
    """Whether a run, or every job of a sweep, has ended: its summary is the last thing written."""
    return (folder / "summary.json").exists() or (folder / "sweep.csv").exists()


def sample_files(folder: Path) -> list[Path]:
    """The texts that a run wrote while it trained: step_900 before step_1000. No links or pipes."""
    found = (folder / "samples").glob("*.txt")
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=sample_sort_key)


def sample_sort_key(path: Path) -> tuple[str, int, str]:
    kind, _, number = path.stem.rpartition("_")
    return kind, int(number) if number.isdecimal() else -1, path.name


LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keeps a run to this process until the block ends, or the process, however it ends.

    Raises UserError where another process has it.
    """
    file = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        if not any(try_lock(file, fcntl.LOCK_EX) for _ in lock_attempts()):
            raise UserError(f"resume={folder}: another process is training this run")
        yield
    finally:
        os.close(file)


def lock_attempts() -> Iterator[None]:
    """Several within a fifth of a second: who only asks `in_use` has the lock for a moment."""
    for wait in (0, 0.01, 0.02, 0.04, 0.06, 0.07):
        time.sleep(wait)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in this folder of a run or a sweep.

    Those who ask share the lock, so that they do not take each other for one at work.
    """
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            return not try_lock(file.fileno(), fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def try_lock(file: int, how: int) -> bool:
    """Takes the lock, or tells that another has it; raises OSError where none can be had."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
