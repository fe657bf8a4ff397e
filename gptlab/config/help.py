"""Write the help of a command: what people use first, `--help all` the rest.

Defaults are those of the default choices, composed here without Hydra: importing it is slow.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from gptlab.config.keys import (
    CONF_DIR,
    OPEN_KEYS,
    KeyInfo,
    config_groups,
    flatten,
    group_choices,
    keys_of,
)
from gptlab.config.schema import SCHEMAS
from gptlab.config.spelling import WITH_VALUE, suggest_key
from gptlab.utils.errors import UserError
from gptlab.utils.program import program

# Groups and keys that help shows first, for the commands that have many.
COMMON = {
    "train": (
        *("data", "data.path", "model", "model.n_layer", "model.d_model", "model.context_length"),
        *("experiment", "trainer.max_steps", "data.batch_size", "optim", "optim.lr", "tokenizer"),
        *("prompt", "name", "seed", "resume"),
    ),
    "evaluate": (
        *("run", "suite", "text", "data", "data.path", "num_samples", "max_tokens", "prompt"),
    ),
    "prepare": ("data", "data.path", "tokenizer", "data.max_samples", "data.split", "verify"),
}
GROUP_HELP = {
    "callbacks": "your Lightning callbacks",
    "data": "what to learn from",
    "experiment": "a documented setup of everything",
    "finetune": "which weights to train",
    "logger": "where curves go; several are separated by commas",
    "model": "size and shape of the decoder",
    "optim": "optimizer and learning rate",
    "profile": "smoke: cut a run down to seconds",
    "sampling": "how the next token is chosen",
    "tokenizer": "how text becomes tokens",
    "trainer": "device and processes",
}


def help_topic(arguments: list[str]) -> str:
    """Return the word typed with --help, such as `all` or `optim`; empty if there is none."""
    before = ["", *arguments]
    pairs = zip(before, arguments, strict=False)
    words = (w for last, w in pairs if last not in WITH_VALUE and "=" not in w and w[:1] != "-")
    return next(words, "")


def help_text(name: str, topic: str = "") -> str:
    """Return a command's usage, and its groups and keys: the common ones, `all`, or of a topic.

    Raises UserError for a topic that nothing is about.
    """
    usage = (CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    arguments, start = usage.partition(name)[2].removeprefix(".py"), program(name)
    groups, infos = config_groups(name), keys_of(SCHEMAS[name])
    common = COMMON.get(name, ()) if not topic else ()
    if topic not in ("", "all"):
        groups = [group for group in groups if topic == group]
        infos = {key: info for key, info in infos.items() if topic in key}
        if not infos:
            raise UserError(f"--help {topic}: no such key{suggest_key(topic, name)}")
    values = default_values(name)
    lines = [f"{start}{arguments}", ""]
    if topic in ("", "all"):
        lines += usage_lines(start, bool(groups))
    if common:
        lines += ["Groups (conf/GROUP/CHOICE.yaml) and keys that most people use:"]
        lines += [
            describe_group(each, name) if each in groups else describe_key(infos[each], values)
            for each in common
        ]
        return "\n".join([*lines, "", f"{start} --help all lists everything, --help data a part"])
    if groups:
        lines += ["Groups and their choices (conf/GROUP/CHOICE.yaml):"]
        lines += [*(describe_group(group, name) for group in groups), ""]
    lines += ["Keys with their defaults, which other choices may change:"]
    return "\n".join([*lines, *(describe_key(info, values) for info in infos.values())])


def usage_lines(start: str, has_groups: bool) -> list[str]:
    completion = f'eval "$({start} -sc install=bash)"'
    lines = [
        f"{start} GROUP=CHOICE … KEY=VALUE …            a value overrides a choice",
        "    the last part of a key is enough: lr=1e-3 is optim.lr=1e-3",
        f"{start} --config-dir FOLDER …                 add choices: FOLDER/GROUP/CHOICE.yaml",
    ]
    return [
        *(lines if has_groups else [f"{start} KEY=VALUE …"]),
        f"{start} --cfg job …                           print the whole configuration and exit",
        *([f"{completion}            complete groups and keys with Tab"] * (" -m " not in start)),
        "",
    ]


def describe_group(group: str, command: str) -> str:
    """Format one line of help: a group with its default, what it is about, and its choices."""
    default = default_choices(command).get(group) or "null"
    choices = ", ".join(group_choices(group))
    return f"  {f'{group}={default}':<38} {GROUP_HELP[group]} ({choices})"


def describe_key(info: KeyInfo, values: dict[str, Any]) -> str:
    """Format one line of help: name and default, description, choices or bounds."""
    value = values[info.name]
    default = "null" if value is None else str(value).replace("'", "")
    default = default.lower() if isinstance(value, bool) else default
    allowed = " | ".join(info.offered) or info.range
    return f"  {f'{info.name}={default}':<38} {info.help}{f' ({allowed})' if allowed else ''}"


@cache
def default_values(command: str) -> dict[str, Any]:
    """Return the value of each key if nothing is typed, by full name."""
    values = flatten(SCHEMAS[command]())
    root = read_choice(CONF_DIR / f"{command}.yaml")
    values |= {key: value for key, value in flatten(root).items() if key in values}
    for group, choice in default_choices(command).items():
        if choice and group not in OPEN_KEYS:
            values |= flatten({group: choice_values(group, choice)})
    for key, value in values.items():
        if match := re.fullmatch(r"\$\{(.+)\}", str(value)):
            values[key] = values[match[1]]
    for key, info in keys_of(SCHEMAS[command]).items():
        if isinstance(values[key], str) and info.type.startswith("float"):
            values[key] = float(values[key])  # YAML reads 1e-3 as text
    return values


@cache
def default_choices(command: str) -> dict[str, str | None]:
    """Return the choice of each group if nothing is typed; model=toy, say, chooses optim, too."""
    entries = read_choice(CONF_DIR / f"{command}.yaml")["defaults"]
    choices = {g: c for entry in entries if isinstance(entry, dict) for g, c in entry.items()}
    for group, choice in list(choices.items()):
        content = read_choice(CONF_DIR / group / f"{choice}.yaml") if choice else {}
        for entry in content.get("defaults", []):
            for name, other in entry.items() if isinstance(entry, dict) else ():
                if match := re.match(r"override /(\w+)", name):
                    choices[match[1]] = other
    return choices


def choice_values(group: str, choice: str) -> dict[str, Any]:
    """Return the content of a choice with that of the choices it builds on."""
    content = dict(read_choice(CONF_DIR / group / f"{choice}.yaml"))
    bases = [entry for entry in content.pop("defaults", []) if isinstance(entry, str)]
    values: dict[str, Any] = {}
    for base in bases:
        values |= choice_values(group, base) if base != "_self_" else {}
    return values | content


@cache
def read_choice(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader) or {}
