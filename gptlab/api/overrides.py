"""Write Python values as overrides in Hydra's grammar."""

from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any

from gptlab.config.cli import quote_free_text, refuse_removals
from gptlab.config.hydra_errors import OPEN_GROUPS
from gptlab.config.keys import config_groups
from gptlab.config.sweeps import quote_override
from gptlab.utils.errors import UserError


def make_overrides(command: str, typed: tuple[str, ...], keys: Mapping[str, Any]) -> list[str]:
    """Return the overrides that a command would be called with.

    `typed` are written as on the command line. `keys` have Python values: a text for a group is the
    name of a choice, a dictionary holds keys of a group, and every other value is passed unchanged.
    Raises UserError for options such as `-m`.
    """
    for argument in typed:
        if not isinstance(argument, str) or "=" not in argument or argument.startswith("-"):
            raise UserError(
                f"{argument!s:.200}: is not KEY=VALUE; options such as -m work on the command line"
            )
    refuse_removals(typed)
    groups = config_groups(command)
    written = (each for name, value in keys.items() for each in write_key(name, value, groups))
    return [*map(quote_free_text, typed), *written]


def write_key(name: str, value: Any, groups: list[str]) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from write_key(f"{name}.{key}", each, groups)
    elif name in groups and isinstance(value, str):
        yield f"{name}={value}"
    else:
        yield f"{'++' if name.startswith(OPEN_GROUPS) else ''}{name}={write_value(name, value)}"


def write_value(name: str, value: Any) -> str:
    """Write one value so that Hydra reads exactly it; raises UserError for an unusable type."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a NumPy or torch number
        value = value.item()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() | PathLike():
            return quote_override(str(fspath(value)))
        case list() | tuple():
            return f"[{','.join(write_value(name, each) for each in value)}]"
        case dict() if not value:
            return "{}"
    raise UserError(
        f"{name}: {type(value).__name__} is not a text, number, bool, None, path, list or "
        "dictionary"
    )
