"""The jobs of a sweep: their folders, their clean beginnings, their failures.

Nothing heavy is imported here: the launcher loads this file. The ranking at a sweep's end is in
gptlab/report/sweep_ranking.py.
"""

import contextlib
import gc
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

MULTIRUN_FLAGS = {"-m", "--multirun"}
VARIED_ENV = "GPTLAB_VARIED"  # tells the jobs, in whatever process, which keys the sweep varies
COMMAND_ENV = "GPTLAB_COMMAND"  # what was typed, before the launcher quotes it for Hydra


SWEEP_FILE = "sweep.json"  # in a sweep's folder: what was typed
SWEEP_DIR_KEY = "hydra.sweep.dir"


def write_sweep_file(folder: Path) -> None:
    """Keeps what a sweep needs to go on when it is stopped; with that its folder appears."""
    typed = [
        a for a in sys.argv[1:] if override_key(a) != SWEEP_DIR_KEY
    ]  # wherever it may lie later
    content = {"arguments": typed, "command": os.environ.get(COMMAND_ENV)}
    text = json.dumps(content, ensure_ascii=False)
    if (new := run_dir.staging_dir(folder)).is_dir():
        (new / SWEEP_FILE).write_text(text, encoding="utf-8")
        run_dir.publish_run_dir(folder)
    elif not (folder / SWEEP_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SWEEP_FILE).write_text(text, encoding="utf-8")


def resume_sweep_arguments(arguments: list[str]) -> list[str]:
    """The arguments, or where they resume a sweep, those of that sweep: its jobs look for
    themselves what is done.

    Raises UserError for what cannot be said when a sweep goes on.
    """
    resume = read_override(arguments, "resume")
    if resume is None:
        return arguments
    if MULTIRUN_FLAGS & set(arguments):
        raise UserError("-m: resume= knows by itself whether it was a sweep; leave -m out")
    folder = run_dir.find_unfinished(resume, read_override(arguments, "run_root") or "runs")
    sweep = next(
        (f for f in (folder, folder and folder.parent) if f and (f / SWEEP_FILE).exists()), None
    )
    if sweep is None or run_dir.is_finished(sweep):
        return arguments
    try:
        content = json.loads((sweep / SWEEP_FILE).read_text(encoding="utf-8"))
        stored, typed = [str(a) for a in content["arguments"]], content["command"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{sweep / SWEEP_FILE}: is damaged; begin the sweep anew") from None
    for argument in arguments:
        if override_key(argument) not in ("resume", "run_root") and argument not in stored:
            raise UserError(f"{argument}: a sweep that goes on keeps its settings: {sweep}")
    for argument in stored:
        if not SAFE_OVERRIDE.fullmatch(argument) and argument not in arguments:
            raise UserError(
                f"{argument}: {sweep / SWEEP_FILE} asks for it, and it could run foreign code; if "
                "you trust it, type it again"
            )
    os.environ[COMMAND_ENV] = str(typed)
    print(f"going on with the sweep in {sweep}", flush=True)
    return [*stored, sweep_dir_argument(sweep.resolve())]


CONFIG_GROUPS = (
    "callbacks|data|experiment|finetune|logger|model|optim|profile|sampling|tokenizer|trainer"
)
# What a sweep's file may ask for by itself: values of our keys, and of the groups choices by name
# (Hydra would follow a path to any file).
SAFE_OVERRIDE = re.compile(
    rf"-m|--multirun|(({CONFIG_GROUPS})(@[\w.]+)?|hydra/launcher)=(\w+(,\w+)*)"
    r"|hydra\.launcher\.n_jobs=-?\d+"
    rf"|\+{{0,2}}(?!hydra|callbacks|logger|({CONFIG_GROUPS})=)\w+(\.\w+)*=.*",
    re.DOTALL,
)


def sweep_dir_argument(sweep: Path) -> str:
    """The argument that gives Hydra a sweep's folder."""
    return f"{SWEEP_DIR_KEY}={quote_override(str(sweep))}"


def quote_override(value: str) -> str:
    """A text in Hydra's grammar, to the letter."""
    # Within single quotes the grammar still reads \' and ${, and a backslash before either.
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    value = re.sub(r"(\\+)\Z", r"\1\1", value)
    return f"'{value}'"


@contextlib.contextmanager
def sweep_folder(arguments: list[str]) -> Iterator[list[str]]:
    """The arguments, of a sweep with a folder that is its own and that no other process enters.

    Raises UserError where that cannot be had.
    """
    if not MULTIRUN_FLAGS & set(arguments):
        yield arguments
        return
    if any(override_key(a) == SWEEP_DIR_KEY and re.search(r"(?<!\\)\$\{", a) for a in arguments):
        # An interpolation: Hydra's to resolve.
        yield arguments
        return
    if wanted := read_override(arguments, SWEEP_DIR_KEY):
        place = folder = Path(wanted).expanduser().absolute()
        run_dir.make_run_folder(folder, folder.parent)
    else:
        root = Path(read_override(arguments, "run_root") or "runs").expanduser()
        folder = run_dir.reserve_run_dir(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_sweep")
        place = run_dir.staging_dir(folder)
        arguments = [*arguments, sweep_dir_argument(folder)]
    with run_dir.lock_run_dir(place):
        try:
            yield arguments
        finally:
            run_dir.discard_staging_dir(folder)
            remove_empty(folder)


def remove_leftovers(folder: Path) -> None:
    """Removes what Hydra leaves of a sweep: its own record, and empty folders."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for job in folder.glob("[0-9]*/"):
        with contextlib.suppress(OSError):  # not empty: of a job that ran
            job.rmdir()


def remove_empty(folder: Path) -> None:
    """Removes the folder of a sweep of which nothing is to be kept."""
    remove_leftovers(folder)
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [run_dir.LOCK_FILE]:
            (folder / run_dir.LOCK_FILE).unlink()
        folder.rmdir()
        folder.parent.rmdir()


def read_override(arguments: list[str], name: str) -> str | None:
    """The value that the last of the arguments of this name gives, as Hydra will read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    typed = [argument for argument in arguments if override_key(argument) == name]
    if not typed:
        return None
    try:
        value = OverridesParser.create().parse_override(typed[-1]).value()
    except HydraException:  # Hydra itself will tell
        return None
    return None if value is None else str(OmegaConf.create([value])[0])  # `\${` is to the letter


def remember_varied_keys(arguments: list[str]) -> None:
    """Remembers the keys to which the command line gives several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, keys = OverridesParser.create(), []
    for argument in arguments:
        with contextlib.suppress(HydraException):  # Hydra itself will tell
            if "=" in argument and parser.parse_override(argument).is_sweep_override():
                keys.append(override_key(argument))
    os.environ[VARIED_ENV] = " ".join(keys)


def override_key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def is_sweep_job() -> bool:
    """Whether this is a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def varied_overrides() -> list[str]:
    """Of this job's overrides, those in which the jobs of its sweep differ."""
    from hydra.core.hydra_config import HydraConfig

    keys = os.environ.get(VARIED_ENV, "").split() if is_sweep_job() else []
    return [a for a in HydraConfig.get().overrides.task if override_key(a) in keys]


def job_dir() -> Path:
    """The folder of this job within its sweep's; it may not be there yet."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    name = ",".join([str(hydra.job.num), *varied_overrides()])
    return Path(hydra.sweep.dir).expanduser() / run_dir.safe_name(name)


def reset_job_state() -> None:
    """Leaves nothing of the job before: no compiled graph, no memory held; nor of a failure of
    this one, before the sweep was stopped."""
    folder = job_dir()
    (folder / "failed.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
    if torch := sys.modules.get("torch"):
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def record_failed_job(reason: str) -> None:
    """Tells why this job failed, and leaves it in the job's folder for the ranking."""
    from hydra.core.hydra_config import HydraConfig

    number, folder = HydraConfig.get().job.num, job_dir()
    print(f"error: job {number}: {reason}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"job": number, "overrides": varied_overrides(), "reason": reason}
    (folder / "failed.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
