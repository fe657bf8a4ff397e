"""Run the jobs of a sweep: create folders, reset state before each job, record failures.

Nothing heavy is imported here: the launcher loads this file. gptlab/report/sweep_ranking.py ranks
the finished jobs.
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
from typing import Any

from gptlab.config.keys import keys_of
from gptlab.config.schema import TrainConfig
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import is_reference, is_trusted, trust_arguments

MULTIRUN_FLAGS = {"-m", "--multirun"}
VARIED_ENV = "GPTLAB_VARIED"  # the keys that a sweep varies, for jobs in any process
COMMAND_ENV = "GPTLAB_COMMAND"  # the command as typed, before quoting for Hydra
SWEEP_FILE = "sweep.json"  # in a sweep's folder: its arguments
SWEEP_DIR_KEY = "hydra.sweep.dir"
CONFIG_GROUPS = (
    "callbacks|data|experiment|finetune|logger|model|optim|profile|sampling|tokenizer|trainer"
)
# Arguments that a stored sweep may repeat without asking: values of known keys, and choices
# by name (Hydra would follow a path to any file).
NAMES = r"\w+(,\w+)*"
SAFE_OVERRIDE = re.compile(
    rf"-m|--multirun|({CONFIG_GROUPS})(@[\w.]+)?=({NAMES}|\[{NAMES}\])"
    rf"|hydra/(launcher|sweeper(/sampler)?)={NAMES}"
    r"|hydra\.(launcher\.n_jobs|sweeper\.(n_jobs|n_trials|sampler\.seed))=-?\d+"
    rf"|\+{{0,2}}(?!hydra|callbacks|logger|({CONFIG_GROUPS})=)\w+(\.\w+)*=.*",
    re.DOTALL,
)


def write_sweep_file(folder: Path) -> None:
    """Store the arguments for resuming; this makes the sweep's folder appear."""
    # The folder may be moved before it is resumed, so its path is not stored.
    arguments = [a for a in sys.argv[1:] if override_key(a) != SWEEP_DIR_KEY]
    content = {"arguments": arguments, "command": os.environ.get(COMMAND_ENV)}
    text = json.dumps(content, ensure_ascii=False)
    if (staging := run_dir.staging_dir(folder)).is_dir():
        (staging / SWEEP_FILE).write_text(text, encoding="utf-8")
        run_dir.publish_run_dir(folder)
    elif not (folder / SWEEP_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SWEEP_FILE).write_text(text, encoding="utf-8")


def resume_sweep_arguments(arguments: list[str]) -> list[str]:
    """Replace `resume=SWEEP` by the sweep's stored arguments; finished jobs are skipped.

    Other arguments are returned unchanged. Raises UserError for settings that a resumed sweep
    cannot change, and for stored arguments that could run foreign code.
    """
    resume = read_override(arguments, "resume")
    if resume is None:
        return arguments
    if MULTIRUN_FLAGS & set(arguments):
        raise UserError("-m: resume= detects a sweep by itself; remove -m")
    extends = any(override_key(argument) == "trainer.max_steps" for argument in arguments)
    run = run_dir.find_resumable(resume, read_override(arguments, "run_root") or "runs", extends)
    folders = [run, run.parent] if run else []
    sweep = next((folder for folder in folders if (folder / SWEEP_FILE).exists()), None)
    if sweep is None or run_dir.is_finished(sweep):
        return arguments
    try:
        content = json.loads((sweep / SWEEP_FILE).read_text(encoding="utf-8"))
        stored, typed = [str(a) for a in content["arguments"]], content["command"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{sweep / SWEEP_FILE}: damaged; start the sweep again") from None
    for argument in trust_arguments(arguments):
        if override_key(argument) not in ("resume", "run_root") and argument not in stored:
            raise UserError(f"{argument}: a resumed sweep keeps its settings: {sweep}")
    for argument in stored:
        if not is_safe_override(argument) and argument not in arguments:
            raise UserError(
                f"{argument}: stored in {sweep / SWEEP_FILE}, and could run foreign code; if you "
                "trust it, type it again"
            )
    os.environ[COMMAND_ENV] = str(typed)
    print(f"resuming the sweep in {sweep}", flush=True)
    plugins = [argument for argument in arguments if override_key(argument) == "plugins"]
    return [*stored, *plugins, sweep_dir_argument(sweep.resolve())]


def is_safe_override(argument: str) -> bool:
    """Whether an argument of a stored sweep imports parts of gptlab and trusted packages only."""
    keys = [name for name, info in keys_of(TrainConfig).items() if info.takes_plugins]
    key, _, value = argument.partition("=")
    key = f"{key.lstrip('+~')}."  # with a dot, so that `eval_after.0` starts with its key, too
    if key.startswith("plugins."):
        return False
    if key.startswith(tuple(f"{name}." for name in keys)):
        # No reference without a colon; an interpolation could bring one.
        words = [word.strip("'") for word in re.split(r"[\s,\[\]]+", value)]
        if any(re.search("[:$]", w) and not (is_reference(w) and is_trusted(w)) for w in words):
            return False
    return SAFE_OVERRIDE.fullmatch(argument) is not None


def sweep_dir_argument(sweep: Path) -> str:
    """Return the argument that sets Hydra's sweep folder."""
    return f"{SWEEP_DIR_KEY}={quote_override(str(sweep))}"


def quote_override(value: str) -> str:
    """Quote a text so that Hydra's grammar reads it exactly."""
    # Within single quotes the grammar still interprets \' and ${, and a backslash before either.
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    value = re.sub(r"(\\+)\Z", r"\1\1", value)
    return f"'{value}'"


@contextlib.contextmanager
def sweep_folder(arguments: list[str]) -> Iterator[list[str]]:
    """Add a new folder to a sweep's arguments, and lock it against other processes.

    Other arguments are yielded unchanged. Raises UserError if the folder cannot be created.
    """
    folders = [a for a in arguments if override_key(a) == SWEEP_DIR_KEY]
    interpolated = any(re.search(r"(?<!\\)\$\{", a) for a in folders)  # only Hydra resolves it
    if interpolated or not MULTIRUN_FLAGS & set(arguments):
        yield arguments
        return
    if typed_folder := read_override(arguments, SWEEP_DIR_KEY):
        folder = Path(typed_folder).expanduser().absolute()
        run_dir.make_run_dir(folder, folder.parent)
    else:
        root = Path(read_override(arguments, "run_root") or "runs").expanduser()
        folder = run_dir.reserve_run_dir(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_sweep")
        arguments = [*arguments, sweep_dir_argument(folder)]
    with (
        contextlib.ExitStack() as after_unlocking,
        run_dir.lock_run_dir(folder, published=bool(typed_folder)),
    ):
        after_unlocking.callback(remove_empty_sweep, folder)
        after_unlocking.callback(run_dir.discard_staging_dir, folder)
        yield arguments


def remove_leftovers(folder: Path) -> None:
    """Remove Hydra's own record of the sweep, and empty job folders."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    for job in folder.glob("[0-9]*/"):
        with contextlib.suppress(OSError):  # not empty: the job ran
            job.rmdir()


def remove_empty_sweep(folder: Path) -> None:
    """Remove a sweep's folder without results, such as of a rejected sweep; and an empty run root.

    Otherwise resume=latest would repeat its error for ever.
    """
    remove_leftovers(folder)
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {run_dir.LOCK_FILE, SWEEP_FILE}:
            for name in (SWEEP_FILE, run_dir.LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()


def read_override(arguments: list[str], name: str) -> str | None:
    """Return the value of the last argument for this key, as Hydra will read it."""
    from omegaconf import OmegaConf

    matching = [argument for argument in arguments if override_key(argument) == name]
    override = parse_override(matching[-1]) if matching else None
    value = override.value() if override else None
    return None if value is None else str(OmegaConf.create([value])[0])  # resolves an escaped `\${`


def remember_varied_keys(arguments: list[str]) -> None:
    """Store the keys with several values in the environment, for all jobs of the sweep."""
    overrides = ((argument, parse_override(argument)) for argument in arguments if "=" in argument)
    varied = (argument for argument, parsed in overrides if parsed and parsed.is_sweep_override())
    os.environ[VARIED_ENV] = " ".join(map(override_key, varied))


def parse_override(argument: str) -> Any:
    """Return Hydra's Override; None for a syntax error, which Hydra reports later."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    with contextlib.suppress(HydraException):
        return OverridesParser.create().parse_override(argument)


def override_key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def hydra_config() -> Any:
    """Return Hydra's own configuration of this job."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def is_sweep_job() -> bool:
    return hydra_config().mode.name == "MULTIRUN"


def varied_overrides() -> list[str]:
    """Return the overrides of this job that differ between the jobs of its sweep."""
    keys = os.environ.get(VARIED_ENV, "").split() if is_sweep_job() else []
    return [readable(a) for a in hydra_config().overrides.task if override_key(a) in keys]


def readable(argument: str) -> str:
    """Return an override without the quotes, brackets and escapes that Hydra needs around text."""
    value = parsed.value() if (parsed := parse_override(argument)) else None
    words: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        return argument
    return f"{override_key(argument)}={','.join(words)}"


def job_dir() -> Path:
    """Return this job's folder in the sweep's folder; it may not exist yet."""
    hydra = hydra_config()
    name = ",".join([str(hydra.job.num), *varied_overrides()])
    return Path(hydra.sweep.dir).expanduser() / run_dir.safe_name(name)


def reset_job_state() -> None:
    """Free the previous job's memory; remove this job's earlier failure."""
    folder = job_dir()
    (folder / "failed.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
    free_memory()


def free_memory() -> None:
    """Free what a run left in memory: reference cycles, compiled graphs, the GPU's cache."""
    if torch := sys.modules.get("torch"):
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def record_failed_job(reason: str) -> None:
    """Print why this job failed, and store it in the job's folder for the ranking."""
    number, folder = hydra_config().job.num, job_dir()
    print(f"error: job {number}: {reason}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"job": number, "overrides": varied_overrides(), "reason": reason}
    (folder / "failed.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
