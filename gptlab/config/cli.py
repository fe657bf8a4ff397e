"""From the command line to a checked configuration: what all commands share.

Hydra composes; around it stand three things it lacks: free text that its override grammar would
stop at, one plain line with exit code 2 for a user's mistake, and no trace on disk before all
values are checked.
"""

import functools
import inspect
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from gptlab.config import sweeps
from gptlab.config.schema import SCHEMAS, flatten
from gptlab.config.validation import validate_config
from gptlab.utils.errors import UserError, describe_resource_error, did_you_mean, exit_on_error

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"

# Keys whose value is text or a path, taken to the letter.
FREE_TEXT = {
    *("prompt", "prompt_file", "run", "resume", "init_from", "name", "run_root", "corpus_root"),
    *("stop", "save"),
    *("data.path", "data.valid_path", "data.hub", "data.prompt", "hellaswag.path"),
    *("model.pretrained", "text", "judge.url", "output_dir", "input", "token", "host"),
}
LISTS = {"data.path", "data.valid_path", "stop"}


def quote_free_text(argument: str) -> str:
    """`prompt=…` with its value quoted for Hydra's grammar, so that it arrives to the letter.

    A list (`data.path=[a,b]`) and the bare `null` keep their meaning.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in FREE_TEXT or value == "null":
        return argument
    if key in LISTS and value.startswith("[") and value.endswith("]"):
        return argument
    return f"{key}={sweeps.quote_override(value)}"


def command(name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Decorates `f(config)`: makes of it a command that reads conf/NAME.yaml and the arguments.

    The configuration arrives as the dataclass in gptlab.commands, checked. UserError from within
    becomes one line and exit code 2; any other exception is a bug and keeps its traceback.
    """

    def decorate(action: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(action)
        def main() -> None:
            # Threads that wait soon sleep: spinning on, a step took several times as long beside
            # other busy programs (docs/measurements.md). Read when torch is imported.
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
            with exit_on_error(name):
                if {"--help", "-h"} & set(sys.argv[1:]):
                    print(help_text(name))
                else:
                    run_hydra(name, action)

        return main

    return decorate


def run_hydra(name: str, action: Callable[[Any], None]) -> None:
    """Composes conf/NAME.yaml and calls the action; raises UserError for what does not compose."""
    import hydra
    from hydra.core.config_store import ConfigStore

    if "LOCAL_RANK" not in os.environ:  # DDP children inherit arguments that are quoted already
        program = Path(sys.argv[0]).name
        os.environ[sweeps.COMMAND_ENV] = shlex.join(["python", program, *sys.argv[1:]])
        sys.argv[1:] = sweeps.resume_sweep_arguments(
            [quote_free_text(argument) for argument in sys.argv[1:]]
        )
        sys.argv[1:] = sorted(
            sys.argv[1:], key=lambda a: a not in sweeps.MULTIRUN_FLAGS
        )  # Hydra wants it first
    if name != "train" and sweeps.MULTIRUN_FLAGS & set(sys.argv[1:]):
        raise UserError("-m: only train.py runs sweeps")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, instead of printing a block and exiting with 1
    ConfigStore.instance().store(f"{name}_schema", SCHEMAS[name])
    refuse_removals(sys.argv[1:])
    sweeps.remember_varied_keys(sys.argv[1:])
    raised: list[Exception] = []

    def task(raw: Any) -> float | None:
        try:
            return run_job(name, raw, action)
        except Exception as error:  # kept from Hydra, which would print a line of its own
            raised.append(error)
            return None

    try:
        with sweeps.sweep_folder(sys.argv[1:]) as sys.argv[1:]:
            hydra.main(config_path=str(CONF_DIR), config_name=name, version_base="1.3")(task)()
    except UserError:
        raise
    except Exception as error:  # of the composition: the job's own are in `raised`
        raise UserError(explain_hydra_error(error, name)) from None
    if raised:
        raise raised[0]


def refuse_removals(arguments: list[str]) -> None:
    """Raises UserError for `~key`: every key is typed and has a default, none can be taken away."""
    for argument in arguments:
        if argument.startswith("~"):
            raise UserError(f"{argument}: a key cannot be removed; set it to another value or null")


def run_job(name: str, raw: Any, action: Callable[[Any], None]) -> float | None:
    """One job: typed, checked, run. In a sweep one that fails does not stop the rest."""
    if not sweeps.is_sweep_job():
        return action(to_config(name, raw))
    sweeps.reset_job_state()
    try:
        return action(to_config(name, raw))
    except UserError as error:
        sweeps.record_failed_job(error.line())
    except Exception as error:
        sweeps.record_failed_job(describe_resource_error(error) or traceback.format_exc().strip())
    return math.inf


def to_config(name: str, raw: Any) -> Any:
    """The composed DictConfig as the command's dataclass; raises UserError for what is wrong."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        # Merged once more into the schema: `+new.key=1` passes Hydra but is no key of ours.
        plain = OmegaConf.to_container(raw, resolve=False)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), plain))
    except OmegaConfBaseException as error:
        raise UserError(explain_hydra_error(error, name)) from None
    validate_config(config)
    return config


def explain_hydra_error(error: Exception, name: str) -> str:
    """One line from Hydra's or OmegaConf's message: the key, the value, what is allowed."""
    known = [*flatten(SCHEMAS[name]()), *config_groups(name)]
    if override := getattr(error, "override", None):
        reason = str(error).splitlines()[0]
        return f"{override}: cannot be read as key=value ({reason}); quote its special characters"
    # Hydra wraps OmegaConf's error, which names the key in full.
    for cause in (error.__cause__, error.__context__, error):
        text = str(cause).strip() if cause else ""
        if match := re.search(r"Could not find '(\w+)/([^']*)'", text):
            group, choice = match.groups()
            there = group_choices(group)
            return (
                f"{group}={choice}: there is no such choice; the choices are {', '.join(there)}"
                f"{did_you_mean(choice, there)}"
            )
        if match := re.search(r"Could not override '([^']+)'", text):
            return f"{match[1]}: there is no such key{suggest_key(match[1], known)}"
        full = re.search(r"full_key: (\S+)", text)
        if match := re.search(r"Key '([^']+)' (?:is )?not in", text):
            key = full[1] if full else match[1]
            if key.startswith(OPEN_GROUPS):
                return f"{key}: is new to this group; add it with a plus: +{key}=VALUE"
            return f"{key}: there is no such key{suggest_key(key, known)}"
        if match := re.search(r"Value '(.*)' (?:of type .* to (\w+)|is not a valid (bool))", text):
            kind = match[2] or match[3]
            return (
                f"{full[1] if full else 'a key'}={match[1]}: must be {TYPE_NAMES.get(kind, kind)}"
            )
        if "is not a ListConfig" in text and full:
            return f"{full[1]}: must be a list, as in '{full[1]}=[a,b]'"
        if "is not Optional" in text and full:
            return f"{full[1]}=null: must have a value"
        if text.startswith("Ambiguous value for argument"):
            return f"{text.split(chr(39))[1]}: several values are a sweep: add -m; a text, quote it"
        if "Config group override must be" in text:
            return "a group must name one of its choices (see --help), not a number or null"
        if full:
            return f"{full[1]}: {text.splitlines()[0]}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    return f"{first} (see `python {Path(sys.argv[0]).name} --help`)"


# Groups that take keys of the user's own.
OPEN_GROUPS = ("trainer.extra.", "callbacks.", "logger.")
TYPE_NAMES = {
    "Integer": "a whole number",
    "Float": "a number",
    "bool": "true or false",
    "String": "text",
}


def config_groups(name: str) -> list[str]:
    """The groups that a command composes, in alphabetical order."""
    text = (CONF_DIR / f"{name}.yaml").read_text()
    return sorted(re.findall(r"^  - (?:override )?(\w+):", text, re.MULTILINE))


def group_choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def suggest_key(key: str, known: list[str]) -> str:
    """The nearest known key: by its full name, or by its last part in another group."""
    if near := did_you_mean(key, known):
        return near
    last = key.rsplit(".", 1)[-1]
    homes = [full for full in known if full.rsplit(".", 1)[-1] == last]
    return f"; did you mean '{homes[0]}'?" if homes else ""


def help_text(name: str) -> str:
    """The command's help: how to call it, the groups with their choices, every key."""
    text = (CONF_DIR / f"{name}.yaml").read_text()
    program = re.match(r"# (\S+(?: -m)? \S+)", text)[1]
    lines = [
        text.partition("\n")[0].removeprefix("# "),
        "",
        f"{program} GROUP=CHOICE … KEY=VALUE …            a value wins over a choice",
        f"{program} --cfg job …                           show the whole configuration, do nothing",
        f'eval "$({program} -sc install=bash)"            complete groups and keys with Tab',
        "",
        "Groups and their choices (conf/GROUP/CHOICE.yaml):",
        *(f"  {group:<11}{', '.join(group_choices(group))}" for group in config_groups(name)),
        "",
        "Keys:",
        *key_help(SCHEMAS[name], ""),
    ]
    return "\n".join(lines)


def key_help(schema: type, prefix: str) -> list[str]:
    """A line for each key of a configuration dataclass: name, type, and the comment beside it."""
    source = inspect.getsource(schema)
    lines = []
    for item in fields(schema):
        if is_dataclass(item.type):
            lines += key_help(item.type, f"{prefix}{item.name}.")
            continue
        comment = re.search(rf"^    {item.name}: .*?  # (.*)$", source, re.MULTILINE)
        kind = getattr(item.type, "__name__", str(item.type)).replace("typing.", "")
        lines.append(
            f"  {prefix + item.name:<35}{kind:<13}{comment[1] if comment else ''}".rstrip()
        )
    return lines
