"""The configuration of a resumed run: the stored one, and the few settings that may change."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gptlab.config.cli import CONF_DIR, to_config
from gptlab.config.keys import flatten
from gptlab.config.schema import TrainConfig
from gptlab.utils.errors import UserError

# Keys that may be typed when resuming; any other key would make it another run.
CHANGEABLE_KEYS = (
    "trainer.max_steps",
    "trainer.log_every",
    "trainer.fast_loop",
    "trainer.keep_freed_memory",
)
CHANGEABLE_GROUPS = ("logger", "callbacks")
LOCATION_KEYS = ("resume", "preflight", "run_root", "corpus_root")


def override_key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def override_group(override: str) -> str:
    return override_key(override).partition(".")[0]


def merge_config(
    config: TrainConfig,
    overrides: list[str],
    stored: dict[str, Any],
    resolved: dict[str, Any],
    folder: Path,
) -> TrainConfig:
    """Apply what the run resolved by itself, and the permitted overrides, to its stored config.

    `config` is the composed configuration of the present command. Raises UserError for an
    override that would make it another run.
    """
    for override in overrides:
        key, group = override_key(override), override_group(override)
        if key not in (*CHANGEABLE_KEYS, *LOCATION_KEYS) and group not in CHANGEABLE_GROUPS:
            allowed = (*CHANGEABLE_KEYS, *CHANGEABLE_GROUPS, *LOCATION_KEYS)
            raise UserError(
                f"{override}: a resumed run keeps its settings; only {', '.join(allowed)} may be "
                f"typed; to start a new run from its weights: init_from={folder} {override}"
            )
    stored = {**stored, **{group: {**stored[group]} for group in ("trainer", "optim")}}
    for key, value in resolved.items():
        group, _, name = key.partition(".")
        stored[group][name] = value
    parts = {group: stored.pop(group) for group in CHANGEABLE_GROUPS}
    merged = to_config("train", OmegaConf.create(escape_interpolations(stored)))
    merged.run_root, merged.preflight = config.run_root, config.preflight
    present = flatten(config)
    for key in map(override_key, overrides):
        if key == "corpus_root":
            merged.corpus_root = config.corpus_root
        if key in CHANGEABLE_KEYS:
            name = key.removeprefix("trainer.")
            merged.trainer = replace(merged.trainer, **{name: present[key]})
    overridden = {override_group(override) for override in overrides}
    for group, settings in parts.items():
        from_command = group in overridden
        value = getattr(config, group) if from_command else restore_group(group, settings, folder)
        setattr(merged, group, value)
    return merged


def restore_group(group: str, stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Rebuild stored callbacks or loggers from conf/GROUP; only numbers come from the run's file.

    Naming a class executes it, and a path decides where files are written: neither is taken from
    a run folder, which may be a stranger's. Raises UserError for anything else that it asks for.
    """
    shipped: dict[str, dict[str, Any]] = {}
    for path in (CONF_DIR / group).glob("*.yaml"):
        shipped |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    restored = {}
    for name, settings in stored.items():
        own = shipped.get(name, {})
        numbers = {
            key: value
            for key, value in settings.items()
            if isinstance(value, int | float) and isinstance(own.get(key), int | float)
        }
        restored[name] = own | numbers
        if restored[name] != settings:
            raise UserError(
                f"{group}.{name}: is not a choice that gptlab ships, and classes and paths are "
                f"never taken from a run folder ({folder}); type its settings again, or continue "
                f"without it: {group}=none"
            )
    return restored


def escape_interpolations(value: Any) -> Any:
    """Escape every `${` in a configuration: stored text is no interpolation."""
    if isinstance(value, dict):
        return {key: escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
