"""Run folders: `<run_root>/<date>_<time>_<name>/`, everything about one run."""

import re
from pathlib import Path

from gptlab.errors import UserError, did_you_mean

CHECKPOINTS = ("best.ckpt", "last.ckpt")


def clean(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.=,-]+", "-", name).strip("-.")[:120]


def create(root: Path, name: str) -> Path:
    """A new folder of that name; where there is one already, the new one gets a number.

    Raises UserError where the folder cannot be made.
    """
    stem = clean(name)
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if root.exists() and not root.is_dir():
                break
        except OSError as error:
            raise UserError(f"run_root={root}: cannot be written ({error.strerror})") from None
    raise UserError(f"run_root={root}: no run folder can be made here")


def find_checkpoint(run: str, run_root: str) -> Path:
    """The checkpoint that `run=` means: `latest`, a run folder, or a checkpoint file.

    Of a folder, the best by validation loss, otherwise the last. Raises UserError if there is none.
    """
    try:
        root, path = Path(run_root).expanduser(), Path(run).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        raise UserError(f"run={run:.200}: {str(error).splitlines()[0]:.200}") from None
    if run == "latest":
        return latest(root)
    if path.is_file():
        return path
    if not path.exists() and (Path(run_root) / run).exists():
        path = Path(run_root) / run
    if not path.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")])
        raise UserError(f"run={run}: there is no such run folder or checkpoint{near}")
    found = checkpoint_of(path)
    if found is None:
        raise UserError(
            f"run={run}: this folder has no checkpoint (looked for checkpoints/best.ckpt and "
            "last.ckpt); name another, or train with `python train.py`"
        )
    return found


def checkpoint_of(folder: Path) -> Path | None:
    paths = (folder / "checkpoints" / name for name in CHECKPOINTS)
    return next((path for path in paths if path.is_file()), None)


def latest(root: Path) -> Path:
    """The newest run's checkpoint, jobs of sweeps included."""
    folders = [path.parent for path in root.glob("*/checkpoints")]
    folders += [path.parent for path in root.glob("*_sweep/*/checkpoints")]
    for folder in sorted(folders, key=lambda path: (began(path), path.name), reverse=True):
        if found := checkpoint_of(folder):
            return found
    raise UserError(f"run=latest: no run with a checkpoint in {root}; `python train.py` makes one")


def began(folder: Path) -> float:
    """When a run began: its configuration is the first thing written."""
    config = folder / "config.yaml"
    return config.stat().st_mtime if config.exists() else 0.0
