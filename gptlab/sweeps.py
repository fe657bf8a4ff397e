"""The jobs of a sweep: their folders, their clean beginnings, their failures.

Nothing heavy is imported here: the launcher loads this file. The ranking at a sweep's end is in
gptlab/report/sweep.py.
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

from gptlab import runs
from gptlab.errors import UserError

FLAGS = {"-m", "--multirun"}
VARIED = "GPTLAB_VARIED"  # tells the jobs, in whatever process, which keys the sweep varies
COMMAND = "GPTLAB_COMMAND"  # what was typed, before the launcher quotes it for Hydra


SWEEP = "sweep.json"  # in a sweep's folder: what was typed
FOLDER = "hydra.sweep.dir"


def note_beginning(folder: Path) -> None:
    """Keeps what a sweep needs to go on when it is stopped; with that its folder appears."""
    typed = [a for a in sys.argv[1:] if key(a) != FOLDER]  # wherever it may lie later
    content = {"arguments": typed, "command": os.environ.get(COMMAND)}
    text = json.dumps(content, ensure_ascii=False)
    if (new := runs.hidden(folder)).is_dir():
        (new / SWEEP).write_text(text, encoding="utf-8")
        runs.publish(folder)
    elif not (folder / SWEEP).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SWEEP).write_text(text, encoding="utf-8")


def go_on(arguments: list[str]) -> list[str]:
    """The arguments, or where they resume a sweep, those of that sweep: its jobs look for
    themselves what is done.

    Raises UserError for what cannot be said when a sweep goes on.
    """
    resume = given(arguments, "resume")
    if resume is None:
        return arguments
    if FLAGS & set(arguments):
        raise UserError("-m: resume= knows by itself whether it was a sweep; leave -m out")
    folder = runs.unfinished(resume, given(arguments, "run_root") or "runs")
    sweep = next(
        (f for f in (folder, folder and folder.parent) if f and (f / SWEEP).exists()), None
    )
    if sweep is None or runs.finished(sweep):
        return arguments
    try:
        content = json.loads((sweep / SWEEP).read_text(encoding="utf-8"))
        stored, typed = [str(a) for a in content["arguments"]], content["command"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{sweep / SWEEP}: is damaged; begin the sweep anew") from None
    for argument in arguments:
        if key(argument) not in ("resume", "run_root") and argument not in stored:
            raise UserError(f"{argument}: a sweep that goes on keeps its settings: {sweep}")
    for argument in stored:
        if not HARMLESS.fullmatch(argument) and argument not in arguments:
            raise UserError(
                f"{argument}: {sweep / SWEEP} asks for it, and it could run foreign code; if you "
                "trust it, type it again"
            )
    os.environ[COMMAND] = str(typed)
    print(f"going on with the sweep in {sweep}", flush=True)
    return [*stored, in_folder(sweep.resolve())]


GROUPS = "callbacks|data|experiment|finetune|logger|model|optim|profile|sampling|tokenizer|trainer"
# What a sweep's file may ask for by itself: values of our keys, and of the groups choices by name
# (Hydra would follow a path to any file).
HARMLESS = re.compile(
    rf"-m|--multirun|(({GROUPS})(@[\w.]+)?|hydra/launcher)=(\w+(,\w+)*)"
    r"|hydra\.launcher\.n_jobs=-?\d+"
    rf"|\+{{0,2}}(?!hydra|callbacks|logger|({GROUPS})=)\w+(\.\w+)*=.*",
    re.DOTALL,
)


def in_folder(sweep: Path) -> str:
    """The argument that gives Hydra a sweep's folder."""
    return f"{FOLDER}={quote(str(sweep))}"


def quote(value: str) -> str:
    """A text in Hydra's grammar, to the letter."""
    # Within single quotes the grammar still reads \' and ${, and a backslash before either.
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    value = re.sub(r"(\\+)\Z", r"\1\1", value)
    return f"'{value}'"


@contextlib.contextmanager
def own_folder(arguments: list[str]) -> Iterator[list[str]]:
    """The arguments, of a sweep with a folder that is its own and that no other process enters.

    Raises UserError where that cannot be had.
    """
    if not FLAGS & set(arguments):
        yield arguments
        return
    if any(key(a) == FOLDER and re.search(r"(?<!\\)\$\{", a) for a in arguments):
        # An interpolation: Hydra's to resolve.
        yield arguments
        return
    if wanted := given(arguments, FOLDER):
        place = folder = Path(wanted).expanduser().absolute()
        runs.make_folder(folder, folder.parent)
    else:
        root = Path(given(arguments, "run_root") or "runs").expanduser()
        folder = runs.reserve(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_sweep")
        place = runs.hidden(folder)
        arguments = [*arguments, in_folder(folder)]
    with runs.locked(place):
        try:
            yield arguments
        finally:
            runs.discard(folder)
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
        if [path.name for path in folder.iterdir()] == [runs.LOCK]:
            (folder / runs.LOCK).unlink()
        folder.rmdir()
        folder.parent.rmdir()


def given(arguments: list[str], name: str) -> str | None:
    """The value that the last of the arguments of this name gives, as Hydra will read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    typed = [argument for argument in arguments if key(argument) == name]
    if not typed:
        return None
    try:
        value = OverridesParser.create().parse_override(typed[-1]).value()
    except HydraException:  # Hydra itself will tell
        return None
    return None if value is None else str(OmegaConf.create([value])[0])  # `\${` is to the letter


def note_varied(arguments: list[str]) -> None:
    """Remembers the keys to which the command line gives several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, keys = OverridesParser.create(), []
    for argument in arguments:
        with contextlib.suppress(HydraException):  # Hydra itself will tell
            if "=" in argument and parser.parse_override(argument).is_sweep_override():
                keys.append(key(argument))
    os.environ[VARIED] = " ".join(keys)


def key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def is_job() -> bool:
    """Whether this is a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def choices() -> list[str]:
    """Of this job's overrides, those in which the jobs of its sweep differ."""
    from hydra.core.hydra_config import HydraConfig

    keys = os.environ.get(VARIED, "").split() if is_job() else []
    return [a for a in HydraConfig.get().overrides.task if key(a) in keys]


def job_folder() -> Path:
    """The folder of this job within its sweep's; it may not be there yet."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    name = ",".join([str(hydra.job.num), *choices()])
    return Path(hydra.sweep.dir).expanduser() / runs.clean(name)


def clean_state() -> None:
    """Leaves nothing of the job before: no compiled graph, no memory held; nor of a failure of
    this one, before the sweep was stopped."""
    folder = job_folder()
    (folder / "failed.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
    if torch := sys.modules.get("torch"):
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fail(reason: str) -> None:
    """Tells why this job failed, and leaves it in the job's folder for the ranking."""
    from hydra.core.hydra_config import HydraConfig

    number, folder = HydraConfig.get().job.num, job_folder()
    print(f"error: job {number}: {reason}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"job": number, "overrides": choices(), "reason": reason}
    (folder / "failed.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
