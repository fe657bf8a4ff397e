"""List the runs and checkpoints that a client can choose by name, and cache the loaded models."""

import contextlib
import re
import threading
from collections import OrderedDict
from pathlib import Path

from gptlab.generation.quantize import load_on_device
from gptlab.model.checkpoint import LoadedModel, read_checkpoint
from gptlab.utils.errors import UserError, did_you_mean

# Checkpoints that can be chosen; `previous` is a backup of `last`.
CHECKPOINT_NAME = re.compile(r"best|last|step_\d+|epoch_\d+")


class NotFound(UserError):
    """Raised for a run or checkpoint that does not exist, or no longer exists."""


class ModelRegistry:
    """The runs below `root`, and the default model, which may be anywhere.

    A name from a client is looked up in the list of what exists, and never used as a path.
    """

    def __init__(self, root: Path, checkpoint: Path, max_models: int, device: str, dtype: str):
        self.root = root
        self.max_models = max_models
        self.device = device
        self.weight_dtype = dtype
        self.standalone: dict[str, dict[str, Path]] = {}  # checkpoints of models without a run
        self.standalone_tasks: dict[str, str] = {}  # known after loading
        self.external_runs: dict[str, Path] = {}  # run folders outside `root`
        self.default = self.add(checkpoint)  # names of the run and the checkpoint
        self.models: OrderedDict[tuple[Path, int, int], LoadedModel] = OrderedDict()
        self.steps: dict[Path, tuple[int, int]] = {}  # a file's modification time, its step
        self.steps_lock = threading.Lock()

    def add(self, path: Path) -> tuple[str, str]:
        """Add a checkpoint; return the names of its run and of the checkpoint."""
        if path.parent.name == "checkpoints" and CHECKPOINT_NAME.fullmatch(path.stem):
            folder = path.parent.parent
            for name, known in self.runs().items():
                if known.resolve() == folder.resolve():
                    return name, path.stem
            name = self.unique_name(folder)
            self.external_runs[name] = folder
            return name, path.stem
        name = self.unique_name(path)
        self.standalone[name] = {"model": path}
        return name, "model"

    def unique_name(self, path: Path) -> str:
        path = path.resolve()
        name, parent = replace_invalid(path.name), replace_invalid(path.parent.name)
        return f"{parent}/{name}" if name in self.runs() else name

    def runs(self) -> dict[str, Path]:
        """Return the run folders by name, the most recently started first."""
        started = []
        for folder in [*self.root.glob("*"), *self.root.glob("*_sweep/*")]:
            with contextlib.suppress(OSError):  # deleted meanwhile
                if folder.name[0] != "." and (folder / "checkpoints").is_dir():
                    name = folder.relative_to(self.root).as_posix()
                    if name == replace_invalid(name):
                        started.append(((folder / "config.yaml").stat().st_mtime, name, folder))
        below_root = {name: folder for _, name, folder in sorted(started, reverse=True)}
        return self.external_runs | below_root | self.external_runs

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run; raises NotFound."""
        runs = self.runs()
        if run not in runs:
            raise NotFound(f"run {run:.200}: there is no such run{did_you_mean(run, runs)}")
        return runs[run]

    def checkpoints(self, run: str) -> dict[str, Path]:
        """Return the checkpoints of a run by name; raises NotFound."""
        if run in self.standalone:
            return self.standalone[run]
        paths = (self.run_folder(run) / "checkpoints").glob("*.ckpt")
        return {path.stem: path for path in sorted(paths) if CHECKPOINT_NAME.fullmatch(path.stem)}

    def resolve(self, run: str | None, checkpoint: str | None) -> tuple[str, str]:
        """Fill in the defaults: without a run the default model, without a checkpoint the best.

        Raises NotFound.
        """
        if run is None:
            run, checkpoint = self.default[0], checkpoint or self.default[1]
        checkpoints = self.checkpoints(run)
        for name in [checkpoint] if checkpoint else ["best", "last", *checkpoints]:
            if name in checkpoints:
                return run, name
        raise NotFound(
            f"{run}: there is no checkpoint {checkpoint or ''} "
            f"(available: {', '.join(checkpoints) or 'none'})"
        )

    def load(self, run: str, checkpoint: str) -> LoadedModel:
        """Return the model, from the cache if its file has not changed; raises UserError.

        Call it from the computing thread only: two threads must not share a net.
        """
        key = path, *_ = self.cache_key(run, checkpoint)
        if key not in self.models:
            for outdated in [key for key in self.models if key[0] == path]:
                del self.models[outdated]
            while len(self.models) >= self.max_models:
                self.models.popitem(last=False)
            self.models[key] = model = load_on_device(path, self.device, self.weight_dtype)
            if run in self.standalone:
                self.standalone_tasks[run] = model_task(model)
        self.models.move_to_end(key)
        return self.models[key]

    def find_loaded(self, run: str, checkpoint: str) -> LoadedModel | None:
        """Return the model if it is loaded, to read its tokenizer in any thread."""
        return self.models.get(self.cache_key(run, checkpoint))

    def cache_key(self, run: str, checkpoint: str) -> tuple[Path, int, int]:
        """Identify the present content of a checkpoint; raises NotFound."""
        try:
            path = self.checkpoints(run)[checkpoint]
            stat = path.stat()
        except (OSError, KeyError):
            raise NotFound(f"{run}: its checkpoint {checkpoint} no longer exists") from None
        return path, stat.st_mtime_ns, stat.st_size

    def checkpoint_step(self, path: Path) -> int | None:
        """Return the training step of a checkpoint, from its name or content; None if unknown."""
        if path.stem.startswith("step_"):
            return int(path.stem.removeprefix("step_"))
        unreadable = (OSError, UserError, KeyError, TypeError, ValueError)
        with contextlib.suppress(*unreadable), self.steps_lock:
            modified = path.stat().st_mtime_ns
            if self.steps.get(path, (0, 0))[0] != modified:
                self.steps[path] = modified, int(read_checkpoint(path, mmap=True)["global_step"])
            return self.steps[path][1]
        return None


def replace_invalid(text: str) -> str:
    """Replace what cannot be sent as UTF-8, such as the bytes of a strange file name."""
    return text.encode(errors="replace").decode()


def model_task(model: LoadedModel) -> str:
    """Return text, classification or instructions."""
    if model.net.config.n_classes:
        return "classification"
    return str(model.config["data"].get("task", "text"))
