"""Name commands as the user starts them: `python train.py`, `gptlab train`, …"""

import os
import sys
from pathlib import Path

from gptlab.utils.system import shell_quote

LAUNCHER_ENV = "GPTLAB_LAUNCHER"  # `gptlab` or `python -m gptlab`; child processes inherit it
SCRIPTS = ("train", "generate")  # commands with a script at the top of the repository


def program(name: str) -> str:
    """Return what starts a command, in the way that the user started this process."""
    if launcher := os.environ.get(LAUNCHER_ENV):
        return f"{launcher} {name}"
    if name not in SCRIPTS:
        return f"python -m gptlab.{name}"
    typed = Path(sys.argv[0])
    if typed.stem not in SCRIPTS:
        return f"python -m gptlab {name}"
    return f"python {shell_quote(str(typed.with_name(f'{name}.py')))}"


def command_line(name: str, *arguments: str) -> str:
    """Return a command with its arguments, quoted for a shell."""
    return " ".join([program(name), *map(shell_quote, arguments)])
