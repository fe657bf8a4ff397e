"""Run the core of gptlab as on Windows: `python -m tests.as_on_windows` in an empty folder.

Windows has fewer modules and names, opens no folders, renames and removes nothing that is open, and
refuses some file names. Libraries keep what they use here: only gptlab and its files are checked.
"""

import builtins
import importlib
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from tests.utils.test_system import MODULES, OS_NAMES, SIGNAL_NAMES

ROOT = str(Path.cwd())
TINY = [
    *("model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.d_ff=32"),
    *("log_interpretability=[]", "profile=smoke", "trainer.max_steps=4"),
]
original_import = builtins.__import__


def without(module: ModuleType, names: list[str]) -> ModuleType:
    """Return a copy of a module that lacks these names."""
    copy = ModuleType(module.__name__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in names})
    return copy


REPLACED = {"os": without(os, OS_NAMES), "signal": without(signal, SIGNAL_NAMES)}


def import_for_gptlab(name: str, globals: Any = None, *arguments: Any, **named: Any) -> Any:
    if not (globals or {}).get("__name__", "").startswith("gptlab"):
        return original_import(name, globals, *arguments, **named)
    if name in MODULES:
        raise ImportError(f"there is no {name} on Windows")
    return REPLACED.get(name) or original_import(name, globals, *arguments, **named)


def check_name(path: str) -> None:
    parts = path.removeprefix(ROOT).split("/")
    if any(set(part) & set(':?*<>|"\\') or part.rstrip(". ") != part for part in parts):
        raise OSError(123, "The file name is incorrect", path)


def check_closed(path: str) -> None:
    process = psutil.Process()
    files = [file.path for file in process.open_files()] + [m.path for m in process.memory_maps()]
    if opened := [file for file in files if file == path or file.startswith(path + "/")]:
        raise PermissionError(13, f"The process cannot access {opened}", path)


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what Windows refuses; called before each of these calls."""
    if event in ("os.fork", "os.forkpty", "os.kill"):
        raise RuntimeError(f"{event} on Windows")
    if event not in ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"):
        return
    paths = [os.path.abspath(os.fspath(a)) for a in arguments[:2] if isinstance(a, str | Path)]
    for path in paths:
        if not path.startswith(ROOT):
            continue
        check_name(path)
        if event == "open" and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        if event in ("os.rename", "os.remove", "os.rmdir"):
            check_closed(path)


def run(module: str, *arguments: str) -> None:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    sys.argv = [f"{module}.py", *arguments]
    print(f"$ {module} {' '.join(arguments)}", flush=True)
    importlib.import_module(module).main()


def main() -> None:
    warnings.filterwarnings("error", category=EncodingWarning, module="gptlab")
    builtins.__import__ = import_for_gptlab  # type: ignore[assignment]
    from gptlab.utils import system

    system.WINDOWS = True
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # how Windows removes folders
    sys.addaudithook(audit)
    text, gpt2 = (
        "Ein Mädchen … und 中. " * 300,
        ["model.position=learned", "model.feed_forward=gelu_tanh"],
    )
    Path("my text.txt").write_text(text, encoding="utf-8")
    run("gptlab.prepare", "data=text", "data.path=my text.txt")
    run("train", "data=text", "data.path=my text.txt", *TINY, *gpt2, "name=what? a:b*")
    (first,) = Path("runs").iterdir()
    run("train", f"resume={first.name}", "trainer.max_steps=6")
    run("gptlab.export", f"run={first.name}", "output_dir=exported")
    run("train", "-m", *TINY, "model.n_head=1,2")
    run("generate", "prompt=Once upon a time", "max_new_tokens=3", "save_as=out")
    run("gptlab.evaluate", "suite=perplexity")
    run("gptlab.report.__main__", "runs")


if __name__ == "__main__":
    main()
