"""Translate arguments as people type them into Hydra's grammar.

Text and paths need no quotes, and lists no brackets: `prompt=Hello, you`,
`suite=perplexity,text_quality`. Every shell passes these on unchanged.
"""

import functools
from pathlib import Path

from gptlab.config import sweeps
from gptlab.config.keys import KeyInfo, keys_of
from gptlab.config.schema import SCHEMAS

HYDRA_SYNTAX = set("[](){}$'\"")
GROUPS_OF_SEVERAL = ("callbacks", "logger")  # take several choices at once


@functools.cache
def typed_keys() -> dict[str, KeyInfo]:
    """Return the keys of all commands that take text, paths or lists."""
    infos = (info for schema in SCHEMAS.values() for info in keys_of(schema).values())
    return {info.name: info for info in infos if info.free_text or info.type.startswith("list[")}


def hydra_arguments(typed: list[str]) -> list[str]:
    """Translate a command's arguments; with -m, a comma separates the values of a sweep."""
    is_sweep = bool(sweeps.MULTIRUN_FLAGS & set(typed))
    return [hydra_argument(argument, is_sweep) for argument in typed]


def hydra_argument(argument: str, is_sweep: bool = False) -> str:
    """Quote free text, and put lists in brackets.

    A list in brackets, a bare `null`, and Hydra's own syntax in a list keep their meaning.
    """
    name, equals, value = argument.partition("=")
    if name in GROUPS_OF_SEVERAL and "," in value and not (is_sweep or HYDRA_SYNTAX & set(value)):
        return f"{name}=[{value}]"
    info = typed_keys().get(name.lstrip("+"))
    if not equals or info is None or value == "null":
        return argument
    is_list = info.type.startswith("list[")
    if is_list:
        if HYDRA_SYNTAX & set(value):
            return argument
        values = [word for word in value.split(",") if word]
    elif info.type == "Any" and value.startswith("[") and value.endswith("]"):
        return argument
    else:
        values = split_paths(value) if name.endswith("path") else [value]
    quoted = values if info.type == "list[float]" else [*map(sweeps.quote_override, values)]
    if is_list and is_sweep:  # a list of one for each job
        quoted = [f"[{each}]" for each in quoted] or ["[]"]
    joined = ",".join(quoted)
    is_one_list = (is_list or len(values) > 1) and not is_sweep
    return f"{name}=[{joined}]" if is_one_list else f"{name}={joined}"


def split_paths(value: str) -> list[str]:
    """Return the paths in `a.txt,b.txt` if they all exist, otherwise the value as one path."""
    parts = value.split(",")
    return parts if not path_exists(value) and all(map(path_exists, parts)) else [value]


def path_exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # a name too long, an unknown home folder
        return False
