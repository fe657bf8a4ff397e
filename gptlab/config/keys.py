"""Declare configuration keys: default, help, bounds and choices in one place.

schema.py declares the keys; `--help`, the validation and the page's form read them
with `keys_of` and `field_info`. Nothing heavy is imported here.
"""

import ast
import importlib
import re
import sys
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gptlab.utils.errors import UserError
from gptlab.utils.plugins import PLUGIN_FORM, is_reference

MAX_SEED = 2**63 - 1
OPEN_KEYS = ("extra", "callbacks", "logger")  # dictionaries that take any keys
PROJECT_DIR = Path(__file__).resolve().parents[2]
CONF_DIR = PROJECT_DIR / "conf"  # in a clone; in an installed package it is gptlab/conf
if not (CONF_DIR / "train.yaml").is_file():
    CONF_DIR = PROJECT_DIR / "gptlab" / "conf"


@dataclass(frozen=True)
class KeyInfo:
    """Name, type, default, help and bounds of one key."""

    name: str  # with its group: model.n_layer
    type: str  # as in the source: int | None
    default: Any
    help: str
    low: float | None = None  # smallest and largest allowed value, both included; None: no limit
    high: float | None = None
    allowed: tuple[str, ...] = ()  # choices, or tables of them: "gptlab.model.layers.NORMS"
    closed: bool = False  # the tables take no part of another package
    free_text: bool = False  # text or a path: passed on exactly as typed
    slider: tuple[float, float, float] | None = None  # lowest, highest, step of the page's slider

    @property
    def choices(self) -> tuple[str, ...]:
        """All allowed names, including the tables'; empty if any value is allowed."""
        lists = (table_names(c) if c.startswith("gptlab.") else [c] for c in self.allowed)
        return tuple(dict.fromkeys(name for names in lists for name in names))

    @property
    def takes_plugins(self) -> bool:
        """Whether a part of another package can be named, too."""
        return not self.closed and any(each.startswith("gptlab.") for each in self.allowed)

    @property
    def offered(self) -> tuple[str, ...]:
        """The choices as help and errors list them."""
        return (*self.choices, PLUGIN_FORM) if self.takes_plugins else self.choices

    @property
    def range(self) -> str:
        """The bounds in words, such as `at least 1`; empty if there are none."""
        if self.low is None:
            return ""
        upper = self.high is not None and self.high < MAX_SEED
        if 0 < self.low < 1e-6:
            return f"above 0 and at most {self.high:g}" if upper else "above 0"
        return f"from {self.low:g} to {self.high:g}" if upper else f"at least {self.low:g}"


def key(default: Any, help: str, choices: str | tuple[str, ...] = (), **metadata: Any) -> Any:
    """Make a dataclass field that describes a key; `metadata` (low, high, …) as in KeyInfo."""
    metadata["help"] = help
    metadata["allowed"] = (choices,) if isinstance(choices, str) else choices
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def text_key(default: str | None, help: str) -> Any:
    """Make a key for any text or path exactly as typed, including commas, quotes and braces."""
    return key(default, help, free_text=True)


@cache
def keys_of(schema: type, prefix: str = "") -> dict[str, KeyInfo]:
    """Return all keys of a configuration dataclass and its groups, by full name."""
    infos: dict[str, KeyInfo] = {}
    for item in fields(schema):
        if isinstance(item.type, type) and is_dataclass(item.type):
            infos |= keys_of(item.type, f"{prefix}{item.name}.")
            continue
        kind = item.type.__name__ if isinstance(item.type, type) else str(item.type)
        name = prefix + item.name
        default = item.default if item.default_factory is MISSING else item.default_factory()
        infos[name] = KeyInfo(name, kind.replace("typing.", ""), default, **item.metadata)
    return infos


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a dataclass or a stored config.yaml by full name: `{"model.n_layer": 4, …}`."""
    flat: dict[str, Any] = {}
    for name, value in (config if isinstance(config, dict) else vars(config)).items():
        is_group = is_dataclass(value) or (isinstance(value, dict) and name not in OPEN_KEYS)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat


def plugin_references(config: Any) -> list[str]:
    """Return the parts of other packages that a configuration dataclass names."""
    schema: type = type(config)
    infos = keys_of(schema)
    values = (v for name, v in flatten(config).items() if infos[name].takes_plugins)
    names = (name for value in values for name in (value if isinstance(value, list) else [value]))
    return [name for name in names if is_reference(name)]


def table_names(reference: str) -> list[str]:
    """Return the names in a module-level table such as "gptlab.model.layers.NORMS".

    A table whose module is not imported yet is read from the source: importing torch would take
    seconds.
    """
    module, _, table = reference.rpartition(".")
    if loaded := sys.modules.get(module):
        return list(getattr(loaded, table))
    path = PROJECT_DIR.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys))
            ) if name == table and all(isinstance(each, ast.Constant) for each in keys):
                return [ast.literal_eval(each) for each in keys if each]
    return list(getattr(importlib.import_module(module), table))  # its names are computed


def config_groups(name: str) -> list[str]:
    """Return the groups of a command in alphabetical order."""
    text = (CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    return sorted(re.findall(r"^  - (?:override )?(\w+):", text, re.MULTILINE))


def group_choices(group: str) -> list[str]:
    """Return a group's choices: gptlab's, and those in the folder of --config-dir."""
    files = (path for folder in config_dirs() for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in files})


def choice_file(group: str, choice: str) -> Path | None:
    paths = (folder / group / f"{choice}.yaml" for folder in config_dirs())
    return next((path for path in paths if path.is_file()), None)


def config_dirs() -> list[Path]:
    """Return the folders of group files: gptlab's, and the one that Hydra's --config-dir names."""
    folders = [CONF_DIR]
    for flag, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders[1:] = [Path(value if equals else following)]
    return folders


def check_config_dir() -> None:
    """Raise UserError if --config-dir has a file that Hydra would not read, or is no folder."""
    for folder in config_dirs()[1:]:
        if not folder.is_dir():
            raise UserError(f"--config-dir={folder}: no such folder")
        for path in sorted(folder.glob("*/*.yaml")):
            if (CONF_DIR / path.relative_to(folder)).exists():
                raise UserError(
                    f"{path}: gptlab has {path.parent.name}={path.stem} itself; rename your file"
                )
