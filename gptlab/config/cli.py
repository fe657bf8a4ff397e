"""Turn the command line into a validated configuration; shared by all commands.

Hydra composes the configuration. This module adds to it: free text that needs no quoting, user
errors as one line with exit code 2, and no file written before all values are valid.
"""

import contextlib
import functools
import math
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gptlab.config import sweeps
from gptlab.config.arguments import hydra_arguments
from gptlab.config.help import help_text, help_topic
from gptlab.config.hydra_errors import explain_hydra_error
from gptlab.config.hydra_help import help_of_any_type
from gptlab.config.input_files import check_inputs
from gptlab.config.keys import (
    CONF_DIR,
    check_config_dir,
    choice_file,
    plugin_references,
)
from gptlab.config.schema import SCHEMAS
from gptlab.config.spelling import mend_arguments
from gptlab.config.validation import validate_config
from gptlab.utils.errors import UserError, exit_on_error, failure_line
from gptlab.utils.plugins import trust
from gptlab.utils.program import program


def command(name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Decorate `f(config)` as the command that reads conf/NAME.yaml and the arguments.

    `f` receives the validated dataclass of gptlab/config/schema.py. A UserError becomes one line
    and exit code 2; any other exception is a bug and shows its traceback.
    """

    def decorate(action: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(action)
        def main() -> None:
            with exit_on_error(name):
                if {"--help", "-h"} & set(sys.argv[1:]):
                    print(help_text(name, help_topic(sys.argv[1:])))
                else:
                    run_command(name, action)

        return main

    return decorate


def run_command(name: str, action: Callable[[Any], Any]) -> None:
    """Compose conf/NAME.yaml with sys.argv and call the action; raise UserError for invalid
    arguments."""
    set_torch_defaults()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's `!` passes on its own, which may not exist here
    os.environ[sweeps.COMMAND_ENV] = " ".join([program(name), *map(shlex.quote, sys.argv[1:])])
    arguments = hydra_arguments(mend_arguments(sys.argv[1:], name))
    if name == "train":
        arguments = sweeps.resume_sweep_arguments(arguments)
    if name != "train" and sweeps.MULTIRUN_FLAGS & set(arguments):
        raise UserError("-m: only training runs sweeps")
    refuse_removals(arguments)
    if any(map(is_for_hydra, arguments)):
        run_hydra_main(name, arguments, action)
    else:
        with composed_config(name, arguments) as config:
            trust_typed(config)
            check_inputs(config)
            action(config)


def set_torch_defaults() -> None:
    """Set the variables of the environment that torch reads when it is imported.

    Waiting OpenMP threads sleep soon: while they spin, a step takes several times as long on a busy
    machine (docs/measurements.md). What torch lacks for Apple GPUs runs on the CPU.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def refuse_removals(arguments: Iterable[str]) -> None:
    if removal := next((a for a in arguments if a.startswith("~")), None):
        raise UserError(f"{removal}: a key cannot be removed; set it to another value or null")


def is_for_hydra(argument: str) -> bool:
    """Whether an argument is an option of Hydra or sets one of its own keys."""
    return argument.startswith("-") or bool(re.match(r"hydra\W", argument.lstrip("+")))


@contextlib.contextmanager
def composed_config(name: str, overrides: list[str]) -> Iterator[Any]:
    """Yield the validated configuration of a command; HydraConfig describes it in the block.

    `overrides` are in Hydra's grammar. Raises UserError for invalid ones.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    with preserved_hydra():
        ConfigStore.instance().store(f"{name}_schema", SCHEMAS[name])
        try:
            with initialize_config_dir(str(CONF_DIR), name, version_base="1.3"):
                composed = compose(name, overrides, return_hydra_config=True)
        except Exception as error:
            raise UserError(explain_hydra_error(error, name)) from None
        composed.hydra.mode = RunMode.RUN
        HydraConfig.instance().set_config(composed)
        yield to_config(name, composed)


def compose_config(name: str, arguments: list[str]) -> Any:
    """Return the validated configuration of a command with these arguments; do not run it."""
    with composed_config(name, hydra_arguments(mend_arguments(arguments, name))) as config:
        return config


@contextlib.contextmanager
def preserved_hydra() -> Iterator[None]:
    """Let Hydra start afresh in the block; restore its process-wide state afterwards."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    outer, outer_config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():  # of OmegaConf 2.4, to Hydra
            warnings.filterwarnings("ignore", module=r"hydra\.")
            yield
    finally:
        GlobalHydra.instance().hydra = outer
        HydraConfig.instance().cfg = outer_config


def run_hydra_main(name: str, arguments: list[str], action: Callable[[Any], Any]) -> None:
    """Let Hydra handle its own options: sweeps, `--cfg`, `--config-dir`, shell completion."""
    import hydra
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(f"{name}_schema", SCHEMAS[name])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing and exiting with 1
    # Hydra expects -m before the overrides.
    arguments = sorted(arguments, key=lambda a: a not in sweeps.MULTIRUN_FLAGS)
    sweeps.remember_varied_keys(arguments)
    check_config_dir()
    typed, job_errors = sys.argv, list[Exception]()

    def task(composed: Any) -> float | None:
        sys.argv = typed  # Lightning starts its child processes with it
        try:
            return run_job(name, composed, action)
        except Exception as error:  # Hydra would print a message of its own
            job_errors.append(error)
            return None

    try:
        with (
            preserved_hydra(),
            help_of_any_type(),
            sweeps.sweep_folder(arguments) as arguments,
        ):
            sys.argv = [typed[0], *arguments]
            hydra.main(config_path=str(CONF_DIR), config_name=name, version_base="1.3")(task)()
    except UserError:
        raise
    except Exception as error:  # from composing: errors of the job are in job_errors
        raise UserError(explain_hydra_error(error, name)) from None
    finally:
        sys.argv = typed
    if job_errors:
        raise job_errors[0]


def run_job(name: str, composed: Any, action: Callable[[Any], Any]) -> float | None:
    """Validate and run one job; in a sweep, record a failure and let the other jobs run."""

    def run_action() -> float | None:
        config = trust_typed(to_config(name, composed))
        check_inputs(config)
        return action(config)

    if not sweeps.is_sweep_job():
        return run_action()
    sweeps.reset_job_state()
    try:
        return run_action()
    except Exception as error:
        sweeps.record_failed_job(failure_line(error) or traceback.format_exc().strip())
        return math.inf


def trust_typed(config: Any) -> Any:
    """Allow imports of the packages and parts that a command line names; return its config.

    Not for a stored configuration, which may be a stranger's.
    """
    trust([*config.plugins, *plugin_references(config)])
    return config


def to_config(name: str, composed: Any) -> Any:
    """Convert Hydra's DictConfig to the command's dataclass; raise UserError for invalid values."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        # Merge into the schema again: Hydra accepts `+new.key=1`, the schema does not.
        container: Any = OmegaConf.to_container(composed, resolve=False)
        container.pop("hydra", None)
        merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), container)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(explain_hydra_error(error, name)) from None
    validate_config(config)
    return config


def describe_choice(group: str) -> str:
    """Name a group's choice and the file that made it: `adamw_fast, set by model=toy`.

    Returns only the choice if it was typed or is the default; an empty string without Hydra.
    """
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return ""
    hydra = HydraConfig.get()
    choice = str(hydra.runtime.choices[group])
    if not any(argument.startswith(f"{group}=") for argument in hydra.overrides.task):
        for other in ("experiment", "data", "model"):  # a later line of conf/train.yaml wins
            file = choice_file(other, str(hydra.runtime.choices.get(other)))
            text = file.read_text(encoding="utf-8") if file else ""
            if re.search(rf"override /{group}\S*: {choice}$", text, re.MULTILINE):
                return f"{choice}, set by {other}={hydra.runtime.choices[other]}"
    return choice
