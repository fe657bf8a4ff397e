"""List and start the commands: `gptlab`, `gptlab train …`, `python -m gptlab train …`."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from gptlab import __version__
from gptlab.utils.errors import UserError, did_you_mean, exit_on_error
from gptlab.utils.program import LAUNCHER_ENV

# Each command's module, with a `main`, and what it does.
COMMANDS = {
    "train": ("gptlab.training.__main__", "train a model, resume a run, sweep over settings"),
    "generate": ("gptlab.generation.__main__", "generate text with a model"),
    "evaluate": ("gptlab.evaluate", "score a model: perplexity, text quality, classes, …"),
    "report": ("gptlab.report.__main__", "compare runs on one HTML page"),
    "app": ("gptlab.app.__main__", "generate, watch and inspect models in the browser"),
    "export": ("gptlab.export", "write a model as a folder for Hugging Face transformers"),
    "prepare": ("gptlab.prepare", "download and tokenize a text before training, or verify it"),
    "bench": ("gptlab.bench.__main__", "measure speed on this machine"),
}


def main() -> None:
    """Start the command that the first argument names; without one, list all commands."""
    launcher = "python -m gptlab" if Path(sys.argv[0]).name == "__main__.py" else "gptlab"
    arguments = sys.argv[1:]
    with exit_on_error("gptlab"):
        if arguments[:1] in ([], ["--help"], ["-h"], ["help"]):
            print(overview(launcher))
        elif arguments[0] == "--version":
            print(f"gptlab {__version__}")
        else:
            name = completed_command() if arguments[0] in COMPLETION_FLAGS else sys.argv.pop(1)
            start_command(launcher, name)


def overview(launcher: str) -> str:
    lines = [f"  {launcher} {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    after = f"{launcher} COMMAND --help describes a command and its settings."
    return "\n".join([f"usage: {launcher} COMMAND …", "", *lines, "", after])


def start_command(launcher: str, name: str) -> None:
    """Import and run a command; raise UserError for an unknown one."""
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        raise UserError(f"{name}: no such command; choose from {', '.join(COMMANDS)}{near}")
    module, _ = COMMANDS[name]
    os.environ[LAUNCHER_ENV] = launcher
    # Lightning starts further processes of a run with `python -m` and this module's name.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(module)
    importlib.import_module(module).main()


COMPLETION_FLAGS = ("-sc", "--shell-completion")


def completed_command() -> str:
    """Return the command that a shell asks to complete, and take it out of the shell's line.

    Without a command, print the names of all and exit.
    """
    words = os.environ.get("COMP_LINE", "gptlab train ").split(" ")
    if len(words) < 3:
        print(" ".join(COMMANDS))
        raise SystemExit
    if words[1] in ("report", "bench"):  # have no keys
        raise SystemExit
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    return words[1]


if __name__ == "__main__":
    main()
