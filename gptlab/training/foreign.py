"""What a run's file may ask for when the run goes on: nothing that its user has not typed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gptlab.utils.errors import UserError

PATH = re.compile(r"[/\\~]|\.\.")


def refuse_foreign(group: str, settings: dict[str, Any], folder: Path) -> None:
    """Raises UserError for a class or a path that stands in a run's file and in none of ours.

    Naming a class executes it, and a logger writes where it is told to: that is for the person at
    the keyboard to say, not for a file.
    """
    known = our_classes(group)
    for part, value in settings.items():
        for key, leaf in leaves(value):
            if key == "_target_" and leaf in known:
                continue
            # Hydra resolves ${…} anew when it makes the part, and obeys keys such as _args_.
            obeyed = key.startswith("_") or "${" in f"{key}{leaf}"
            if obeyed or (isinstance(leaf, str) and PATH.search(leaf)):
                kind = "class" if obeyed else "path"
                raise UserError(
                    f"{group}.{part}: the run in {folder} names the {kind} {leaf}, which is none "
                    f"of gptlab's; if you trust it, type it again: +{group}.{part}.{key}={leaf}"
                )


def our_classes(group: str) -> set[str]:
    """The classes that the choices of a group name."""
    from gptlab.config.cli import CONF_DIR

    contents = [
        yaml.safe_load(path.read_text()) or {} for path in (CONF_DIR / group).glob("*.yaml")
    ]
    parts = [part for content in contents for part in content.values()]
    return {part["_target_"] for part in parts if isinstance(part, dict)}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in these settings, however deep, with the key that it stands under."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, str(name))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, key)
    else:
        yield key, value
