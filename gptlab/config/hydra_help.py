"""Let Hydra 1.3 start on Python 3.14."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def help_of_any_type() -> Iterator[None]:
    """Let argparse accept a help that is no string.

    Python 3.14 formats each argument's help when the argument is added. Hydra 1.3 passes an object
    that becomes text only when Hydra prints it, and fails with "badly formed help string". Earlier
    Pythons have no such check, and nothing is changed there. Remove this when Hydra passes text.
    """
    parsers = argparse.ArgumentParser.__mro__
    owner: Any = next((each for each in parsers if "_check_help" in vars(each)), None)
    if owner is None:
        yield
        return
    check = owner._check_help

    def check_text(parser: Any, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    owner._check_help = check_text
    try:
        yield
    finally:
        owner._check_help = check
