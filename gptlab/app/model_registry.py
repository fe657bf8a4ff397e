"""The runs that can be chosen, by name alone, and the few models that are kept in memory."""

import contextlib
import re
import threading
from collections import OrderedDict
from pathlib import Path

from gptlab.generation.quantize import quantize_linears
from gptlab.model import checkpoint
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.utils.errors import UserError, did_you_mean

NAME = re.compile(r"best|last|step_\d+|epoch_\d+")  # of checkpoints; `previous` is last's, kept


class NotFound(UserError):
    """There is no such run or checkpoint, or no longer."""


class ModelRegistry:
    """Runs below `root`, and the one the page was opened with, wherever that is.

    What a client names is looked up in lists of what is there, and is never taken for a path.
    """

    def __init__(self, root: Path, first: Path, most: int, accelerator: str, weights: str):
        self.root = root
        self.most = most
        self.accelerator = accelerator
        self.weights = weights
        self.given: dict[str, dict[str, Path]] = {}  # models without a run folder
        self.outside: dict[str, Path] = {}  # runs elsewhere
        self.first = self.add(first)
        self.kinds: dict[str, str] = {}  # of those without a folder, as soon as they were opened
        self.loaded: OrderedDict[tuple[Path, int, int], LoadedModel] = OrderedDict()
        self.steps: dict[Path, tuple[int, int]] = {}  # when the file was written, and its step
        self.reading = threading.Lock()

    def add(self, path: Path) -> tuple[str, str]:
        """The names under which this model can be asked for: its run's and its checkpoint's."""
        if path.parent.name == "checkpoints" and NAME.fullmatch(path.stem):
            folder = path.parent.parent
            for name, known in self.runs().items():
                if known.resolve() == folder.resolve():
                    return name, path.stem
            name = self.name_of(folder)
            self.outside[name] = folder
            return name, path.stem
        name = self.name_of(path)
        self.given[name] = {"model": path}
        return name, "model"

    def name_of(self, path: Path) -> str:
        """Its own, as text, and not that of a run below the root."""
        path = path.resolve()
        name, above = (
            each.encode(errors="replace").decode() for each in (path.name, path.parent.name)
        )
        return f"{above}/{name}" if name in self.runs() else name

    def runs(self) -> dict[str, Path]:
        """The folders by their names, the latest begun first."""
        found = []
        for folder in [*self.root.glob("*"), *self.root.glob("*_sweep/*")]:
            with contextlib.suppress(OSError):  # one that is being removed
                if folder.name[0] != "." and (folder / "checkpoints").is_dir():
                    name = folder.relative_to(self.root).as_posix()
                    if is_text(name):
                        found.append(((folder / "config.yaml").stat().st_mtime, name, folder))
        below = {name: folder for _, name, folder in sorted(found, reverse=True)}
        return self.outside | below | self.outside

    def folder(self, run: str) -> Path:
        """Raises Missing."""
        found = self.runs()
        if run not in found:
            near = did_you_mean(run, found)
            raise NotFound(f"run {run:.200}: there is no such run{near}")
        return found[run]

    def checkpoints(self, run: str) -> dict[str, Path]:
        """Those of a run by their names; raises Missing for a run that is not there."""
        if run in self.given:
            return self.given[run]
        paths = (self.folder(run) / "checkpoints").glob("*.ckpt")
        return {path.stem: path for path in sorted(paths) if NAME.fullmatch(path.stem)}

    def find(self, run: str | None, name: str | None) -> tuple[str, str]:
        """The names of what is meant: nothing is the page's first, of a run its best checkpoint.

        Raises Missing.
        """
        if run is None:
            run, name = self.first[0], name or self.first[1]
        there = self.checkpoints(run)
        for wanted in [name] if name else ["best", "last", *there]:
            if wanted in there:
                return run, wanted
        raise NotFound(
            f"{run}: there is no checkpoint {name or ''} (there are: {', '.join(there) or 'none'})"
        )

    def open(self, run: str, name: str) -> LoadedModel:
        """The model, from memory where its file is as it was; raises UserError.

        Only for the thread that computes: a net is never used by two.
        """
        path = self.checkpoints(run).get(name)
        try:
            if path is None:
                raise FileNotFoundError
            state = path.stat()
        except OSError:
            raise NotFound(f"{run}: its checkpoint {name} is no longer there") from None
        key = (path, state.st_mtime_ns, state.st_size)
        if key not in self.loaded:
            for old in [k for k in self.loaded if k[0] == path]:  # it was written anew
                del self.loaded[old]
            while len(self.loaded) >= self.most:
                self.loaded.popitem(last=False)
            model = load_model(path)
            quantize_linears(model.net.to(self.accelerator), self.weights)
            self.loaded[key] = model
            if run in self.given:
                self.kinds[run] = kind(model)
        self.loaded.move_to_end(key)
        return self.loaded[key]

    def step(self, path: Path) -> int | None:
        """The step that a checkpoint was written at, by its name or its content; None: nobody
        knows."""
        if path.stem.startswith("step_"):
            return int(path.stem.removeprefix("step_"))
        with contextlib.suppress(OSError, UserError, KeyError, TypeError, ValueError), self.reading:
            written = path.stat().st_mtime_ns
            if self.steps.get(path, (0, 0))[0] != written:
                step = int(checkpoint.read_checkpoint(path, mmap=True)["global_step"])
                self.steps[path] = (written, step)
            return self.steps[path][1]
        return None


def is_text(name: str) -> bool:
    """Whether a name on disk is UTF-8: others cannot be sent."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind(model: LoadedModel) -> str:
    """What it does: text, classification or instructions."""
    if model.net.config.n_classes:
        return "classification"
    return str(model.config["data"].get("task", "text"))
