"""Create, find and lock run folders: `<run_root>/<date>_<time>_<name>/`."""

import contextlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import psutil

from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.program import program
from gptlab.utils.system import rename

CHECKPOINT_NAMES = ("best.ckpt", "last.ckpt")  # in order of preference
BASELINE_SUFFIX = "_random"  # end of the name of a baseline's run folder
# In the folder of an exported model; an index lists several files of weights.
WEIGHT_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
RUN_DATE = re.compile(r"[\d-]{10}_\d{6}_")  # before the name of a run
OWNER_FILE = ".owner"  # host and process that create a run folder
LOCK_FILE = ".lock"  # empty: Windows lets no other process read locked bytes
MAX_NAME_BYTES = 80
RESERVED_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows
LOCK_WAITS = (0.0, 0.01, 0.02, 0.04, 0.06, 0.07)  # seconds: `is_locked` holds it for a moment
open_locks: dict[Path, int] = {}  # absolute run folder: its open lock file, of this process


def safe_name(name: str) -> str:
    """Make a name that Windows, macOS and Linux accept; at most 80 bytes.

    Windows limits whole paths to 260 characters, and TensorBoard's files add 100 to a run's.
    """
    clean = re.sub(r"[^\w.=,-]+", "-", name).strip("-.")
    short = clean.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip("-.")
    return f"run-{short}" if RESERVED_NAME.fullmatch(short) else short or "run"


def reserve_run_dir(root: Path, name: str) -> Path:
    """Reserve the path of a new run folder; its content is written to `staging_dir(path)`.

    If the name is taken, a number is appended. Raises UserError if no folder can be created.
    """
    stem = safe_name(name)
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        remove_abandoned_staging_dir(folder)
        if not make_run_dir(staging_dir(folder), root):  # another process is creating it
            continue
        owner = f"{platform.node()} {os.getpid()}"
        (staging_dir(folder) / OWNER_FILE).write_text(owner, encoding="utf-8")
        if not folder.exists():
            return folder
        discard_staging_dir(folder)
    raise UserError(f"run_root={root}: cannot create a run folder here")


def make_run_dir(folder: Path, root: Path) -> bool:
    """Create a folder; False if it exists already. Raises UserError if it cannot be created."""
    try:
        folder.mkdir(parents=True)
        return True
    except FileExistsError:  # or it did a moment ago: another process may have published it since
        return False
    except OSError as error:
        raise UserError(f"run_root={root}: cannot be written ({error.strerror})") from None


def staging_dir(folder: Path) -> Path:
    """Return the hidden folder that becomes the run folder with its first checkpoint."""
    return folder.with_name(f".{folder.name}.new")


def publish_run_dir(folder: Path) -> None:
    """Make a reserved run folder appear with everything written so far, and lock it.

    It is not locked before: Windows renames no folder with an open file in it.
    """
    (staging_dir(folder) / OWNER_FILE).unlink()
    rename(staging_dir(folder), folder)
    acquire_lock(folder)


def discard_staging_dir(folder: Path) -> None:
    """Remove the reservation of a run that did not start, and an empty run root."""
    shutil.rmtree(staging_dir(folder), ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty
        folder.parent.rmdir()


def remove_abandoned_staging_dir(folder: Path) -> None:
    """Remove the reservation of a killed process on this machine."""
    with contextlib.suppress(OSError, ValueError):
        owner = (staging_dir(folder) / OWNER_FILE).read_text(encoding="utf-8")
        node, process_id = owner.rsplit(" ", 1)
        if node == platform.node() and not psutil.pid_exists(int(process_id)):
            shutil.rmtree(staging_dir(folder), ignore_errors=True)


def find_checkpoint(run: str, run_root: str, key: str = "run") -> Path:
    """Find the checkpoint that `run=` names: `latest`, a run folder, or a checkpoint file.

    In a run folder, take the best by validation loss, otherwise the last. The folder of an
    exported model is returned itself. Raises UserError if there is no checkpoint.
    """
    path = locate_run(key, run, run_root)
    if run == "latest":
        return latest_checkpoint(path, key)
    if path.is_file():
        return path
    checkpoint = preferred_checkpoint(path) or (path if is_weights_path(path) else None)
    if checkpoint is None:
        named = f"{key}={run}" if key else run
        raise UserError(
            f"{named}: this folder has no checkpoint (looked for checkpoints/best.ckpt and "
            f"last.ckpt); choose another run, or train one with `{program('train')}`"
        )
    return checkpoint


def locate_run(key: str, run: str, run_root: str) -> Path:
    """Find a run by path or name (`latest`: the run root); raise UserError if there is none.

    `key`: the key whose value it is, or an empty string for an argument without one.
    """
    named = f"{key}={run:.200}" if key else f"{run:.200}"
    try:
        root, path = Path(run_root).expanduser(), Path(run).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        raise UserError(f"{named}: {str(error).splitlines()[0]:.200}") from None
    if run == "latest":
        return root
    if not path.exists() and (root / run).exists():
        path = root / run
    if not path.exists():
        raise UserError(f"{named}: no such run folder or checkpoint{similar_run(path, root)}")
    return path


def similar_run(path: Path, root: Path) -> str:
    """Return `; did you mean '…_spam'?` for a run in the run root, or else next to `path`.

    A run can be meant by the part of its name after date and time.
    """
    runs = [folder.name for folder in newest_first(root)]
    names = {RUN_DATE.sub("", name): name for name in reversed(runs)}  # the newest of a name
    meant = [] if RUN_DATE.match(path.name) else get_close_matches(path.name, names, n=1)
    if meant:
        return f"; did you mean '{names[meant[0]]}'?"
    siblings = [other.name for other in path.parent.glob("*")]
    return did_you_mean(path.name, runs) or did_you_mean(path.name, siblings)


def preferred_checkpoint(folder: Path) -> Path | None:
    paths = (folder / "checkpoints" / name for name in CHECKPOINT_NAMES)
    return next((path for path in paths if path.is_file()), None)


def is_weights_path(path: Path) -> bool:
    """Whether this is a weights file, or a folder with one."""
    if path.is_dir():
        return any((path / name).is_file() for name in WEIGHT_FILES)
    is_weights = path.suffix in (".safetensors", ".bin") or path.name in WEIGHT_FILES
    return path.is_file() and is_weights


def latest_checkpoint(root: Path, key: str = "run") -> Path:
    """Return the newest run's checkpoint; sweep jobs count, baselines only as a last resort.

    Raises UserError that names the `key` of which `latest` is the value.
    """
    for folder in by_preference(root):
        if checkpoint := preferred_checkpoint(folder):
            return checkpoint
    latest = f"{key}=latest" if key else "latest"
    raise UserError(f"{latest}: no checkpoint in {root}; train one with `{program('train')}`")


def is_baseline(folder: Path) -> bool:
    return folder.name.endswith(BASELINE_SUFFIX)


def by_preference(root: Path) -> list[Path]:
    """List the runs in a folder as `latest` prefers them: the newest first, baselines last."""
    return sorted(newest_first(root), key=is_baseline)


def start_time(folder: Path) -> float:
    """Return a run's or sweep's start in seconds; raise OSError if the folder holds neither."""
    for name in ("config.yaml", "sweep.json"):  # each is the first file written
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (folder / name).stat().st_mtime
    raise FileNotFoundError(folder)


def find_resumable(run: str, run_root: str, extend: bool = False) -> Path | None:
    """Find the folder that `resume=` names; for `latest`, the newest unfinished run.

    To `extend` a run, take the newest, finished or not; baselines only as a last resort. Returns
    None if every run is finished; raises UserError if there is no run.
    """
    path = locate_run("resume", run, run_root)
    if run != "latest":
        return path.parent.parent if path.is_file() else path
    if not (folders := newest_first(path)):
        raise UserError(f"resume=latest: no run in {path}; start one with `{program('train')}`")
    found = [f for f in folders if not is_finished(f) or (extend and preferred_checkpoint(f))]
    if extend:
        found.sort(key=is_baseline)
    idle = (f for f in found if not (is_locked(f) or is_locked(f.parent)))
    return next(idle, found[0] if found else None)


def newest_first(root: Path) -> list[Path]:
    """List the runs, sweeps and sweep jobs in a folder, the latest started first."""
    started = []
    for folder in (*root.glob("*"), *root.glob("*_sweep/*")):
        with contextlib.suppress(OSError):  # neither a run nor a sweep, or being removed
            started.append((start_time(folder), folder.name, folder))
    return [path for *_, path in sorted(started, reverse=True) if not path.name.startswith(".")]


def is_finished(folder: Path) -> bool:
    """Whether a run, or every job of a sweep, has ended: its summary is written last."""
    return (folder / "summary.json").exists() or (folder / "sweep.csv").exists()


def sample_files(folder: Path) -> list[Path]:
    """List the sample files of a run, step_900 before step_1000; skip links and special files."""
    paths = (folder / "samples").glob("*.txt")
    return sorted((p for p in paths if p.is_file() and not p.is_symlink()), key=sample_sort_key)


def sample_sort_key(path: Path) -> tuple[str, int, str]:
    kind, _, number = path.stem.rpartition("_")
    return kind, int(number) if number.isdecimal() else -1, path.name


@contextlib.contextmanager
def lock_run_dir(folder: Path, published: bool = True) -> Iterator[None]:
    """Lock a run for this process; the lock ends with the block or with the process.

    A reserved folder is locked when it is published. Raises UserError if another process holds the
    lock.
    """
    if published:
        acquire_lock(folder)
    try:
        yield
    finally:
        if (file := open_locks.pop(folder.absolute(), None)) is not None:
            os.close(file)


def acquire_lock(folder: Path) -> None:
    """Open and lock a run's lock file; only warn where the disk has no locks (Lustre, some NFS)."""
    file = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        locked = try_lock(file, LOCK_WAITS)
    except OSError as error:
        locked = True
        print_status(
            f"warning: {folder}: this disk cannot lock a run ({error.strerror}); do not resume it "
            "while it is training"
        )
    if not locked:
        os.close(file)
        raise UserError(f"resume={folder}: another process is training this run")
    open_locks[folder.absolute()] = file


def is_locked(folder: Path) -> bool:
    """Whether a process is training in this run or sweep folder."""
    path = folder / LOCK_FILE
    try:
        # Network file systems lock only what is open for writing, but runs may be read-only.
        with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:
            return not try_lock(file.fileno(), LOCK_WAITS[:2])
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def try_lock(file: int, waits: tuple[float, ...]) -> bool:
    """Lock an open file, trying after each wait; False if another process holds the lock.

    Raises OSError without lock support.
    """
    from filelock import lock_descriptor  # takes a tenth of a second

    for wait in waits:
        time.sleep(wait)
        if lock_descriptor(file, blocking=False):
            return True
    return False
