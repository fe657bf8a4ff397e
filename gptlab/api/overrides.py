"""Write Python values as overrides in Hydra's grammar."""

import shlex
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

from gptlab.config.arguments import hydra_arguments, typed_keys
from gptlab.config.cli import refuse_removals
from gptlab.config.hydra_errors import OPEN_GROUPS
from gptlab.config.keys import KeyInfo, config_groups, keys_of
from gptlab.config.schema import SCHEMAS
from gptlab.config.spelling import complete_key, mend_arguments
from gptlab.config.sweeps import quote_override
from gptlab.utils.errors import UserError
from gptlab.utils.program import program


class Overrides(NamedTuple):
    """The arguments of a call: in Hydra's grammar, and as the command to type."""

    arguments: list[str]
    command: str


def make_overrides(command: str, typed: tuple[str, ...], keys: Mapping[str, Any]) -> Overrides:
    """Convert the arguments of a call to those of a command.

    `typed` are written as on the command line. `keys` have Python values: a text for a group is the
    name of a choice, a dictionary holds keys of a group, and every other value is passed unchanged.
    Raises UserError for options such as `-m`.
    """
    refuse_removals(map(str, typed))
    for argument in typed:
        if not isinstance(argument, str) or "=" not in argument or argument.startswith("-"):
            raise UserError(
                f"{argument!s:.200}: is not KEY=VALUE; options such as -m work on the command line"
            )
    groups = config_groups(command)
    infos = keys_of(SCHEMAS[command])
    pairs = [(complete_key(name, command), value) for name, value in flatten_keys(keys)]
    pairs = [(name, whole_number(infos.get(name), value)) for name, value in pairs]
    written = [write_override(name, value, groups) for name, value in pairs]
    readable = [
        f"{name}={value}" if isinstance(value, str) and name in typed_keys() else override
        for (name, value), override in zip(pairs, written, strict=True)
    ]
    repeated = f"{program(command)} {shlex.join([*typed, *readable])}"
    return Overrides([*hydra_arguments(mend_arguments([*typed], command)), *written], repeated)


def whole_number(info: KeyInfo | None, value: Any) -> Any:
    """Return 1000 for the 1e3 of a key that takes whole numbers, any other value unchanged."""
    is_int = info is not None and info.type.startswith("int")
    return int(value) if is_int and isinstance(value, float) and value.is_integer() else value


def flatten_keys(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from flatten_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_override(name: str, value: Any, groups: list[str]) -> str:
    if name in groups and isinstance(value, str):
        return f"{name}={value}"
    plus = "++" if name.startswith(OPEN_GROUPS) else ""  # the key may be new
    return f"{plus}{name}={write_value(name, value)}"


def write_value(name: str, value: Any) -> str:
    """Write one value so that Hydra reads exactly it; raise UserError for an unusable type."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a NumPy or torch number
        value = value.item()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return (int if isinstance(value, int) else float).__repr__(value)
        case str() | PathLike():
            return quote_override(fspath(value))
        case list() | tuple():
            return f"[{','.join(write_value(name, each) for each in value)}]"
        case dict() if not value:
            return "{}"
    raise UserError(
        f"{name}: {type(value).__name__} is not a text, number, bool, None, path, list or "
        "dictionary"
    )
