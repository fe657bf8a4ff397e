"""Resume a stopped run exactly: the same results as without the stop.

The stored configuration and everything that the run resolved by itself (precision, threads,
steps) come from its checkpoint.
"""

import contextlib
import re
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gptlab.config import sweeps
from gptlab.config.cli import to_config
from gptlab.config.keys import CONF_DIR, flatten, plugin_references
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import load_tokenizer
from gptlab.model import checkpoint
from gptlab.training.checkpoint_io import link_or_copy
from gptlab.training.init_weights import required_tokenizer
from gptlab.utils import run_dir
from gptlab.utils.console import plural, print_status
from gptlab.utils.elapsed_time import ElapsedTime
from gptlab.utils.errors import UserError, failure_line
from gptlab.utils.plugins import plugin_errors_in, require_trust
from gptlab.utils.system import rename, shell_quote

# Keys that may be typed when resuming; any other key would make it a different run.
CHANGEABLE_TRAINER_KEYS = (
    "max_steps",
    "log_every",
    "fast_loop",
    "keep_freed_memory",
    "accelerator",
)
CHANGEABLE_KEYS = tuple(f"trainer.{name}" for name in CHANGEABLE_TRAINER_KEYS)
DEVICE_KEYS = ("trainer.accelerator", "trainer.precision", "trainer.compile")  # resolved again
CHANGEABLE_GROUPS = ("logger", "callbacks")
LOCATION_KEYS = ("resume", "preflight", "run_root", "corpus_root", "plugins")


class NothingToResume(Exception):
    """The run is finished. Not an error: the message is shown to the user."""

    def __init__(self, reason: str, folder: Path | None = None):
        super().__init__(reason)
        self.folder = folder


@dataclass
class ResumedRun:
    """A stopped run, read from its last valid checkpoint."""

    folder: Path
    path: Path  # the checkpoint
    config: TrainConfig
    step: int
    corpus: str  # the name of its corpus folder
    metrics_size: int  # bytes of metrics.csv at that step
    clock: ElapsedTime
    command: str  # started the run
    tokenizer: dict[str, Any]  # the model's, as plain values

    def reopen_corpus(self) -> Corpus:
        """Open the run's corpus; rebuild it from its sources if it is missing or damaged.

        Raises UserError if the sources have changed.
        """
        folder = Path(self.config.corpus_root).expanduser() / self.corpus
        if folder.is_dir():
            with contextlib.suppress(UserError):
                return Corpus(folder)
        config, tokenizer = self.config, None
        if config.init_from or config.model.pretrained:
            tokenizer = required_tokenizer(load_tokenizer(self.tokenizer), config)
        settings = config.data, config.tokenizer, config.seed, config.corpus_root
        corpus = open_corpus(*settings, tokenizer_override=tokenizer)
        if corpus.folder.name != self.corpus:
            raise UserError(
                f"resume={self.folder}: its text has changed: the run was trained on "
                f"{self.corpus}, and these settings now produce {corpus.folder.name}; restore the "
                f"files, or start a new run with {shell_quote(f'init_from={self.folder}')}"
            )
        return corpus

    def restore_last_checkpoint(self) -> None:
        """Replace a damaged last.ckpt: a run resumed at its last step does not write a new one."""
        last = self.folder / "checkpoints" / "last.ckpt"
        if self.path != last:
            rename(link_or_copy(self.path, last), last)


def find_resumed_run(
    config: TrainConfig, overrides: list[str], current_folder: Path | None = None
) -> ResumedRun | None:
    """Find the run that `resume=` names, or the unfinished run of this sweep job.

    `current_folder`: the run folder of this process or its parent, if any. Returns None for a new
    run. Raises NothingToResume for a finished run, UserError for an unreadable one.
    """
    extends = bool(config.resume) and "trainer.max_steps" in map(sweeps.override_key, overrides)
    if config.resume:
        folder = current_folder or run_dir.find_resumable(config.resume, config.run_root, extends)
    elif sweeps.is_sweep_job() and (sweeps.job_dir() / "checkpoints").is_dir():
        folder = sweeps.job_dir()
        # A resumed sweep repeats the overrides of each job, which its stored config contains.
        overrides = [each for each in overrides if override_group(each) in CHANGEABLE_GROUPS]
    else:
        return None
    check_overrides(overrides, folder or config.resume)
    to_extend = "nothing to resume; to train {} further, add trainer.max_steps=N"
    if folder is None:
        every = f"every run in {config.run_root} is finished"
        raise NothingToResume(f"{every}: {to_extend.format('the newest one')}")
    finished = run_dir.is_finished(folder)
    if finished and not extends:
        raise NothingToResume(f"{folder} is finished: {to_extend.format('it')}", folder)
    resumed = read_stopped_run(
        folder, lambda stored, resolved: merge_config(config, overrides, stored, resolved, folder)
    )
    steps = resumed.config.trainer.max_steps or 0
    reached = f"{folder} has {plural(resumed.step, 'step')} already"
    if finished and steps <= resumed.step:
        above = f"to train it further, type trainer.max_steps above {resumed.step}"
        raise NothingToResume(f"{reached}: nothing to resume; {above}", folder)
    if extends and steps < resumed.step:
        raise UserError(f"trainer.max_steps={steps}: {reached}; type more, or leave it out")
    return resumed


def reload_run(folder: Path, config: TrainConfig) -> ResumedRun:
    """Read the run in `folder` again, with this configuration except for the stored model."""
    return read_stopped_run(
        folder, lambda stored, _: replace(config, model=ModelConfig(**stored["model"]))
    )


def read_stopped_run(
    folder: Path, make_config: Callable[[dict[str, Any], dict[str, Any]], TrainConfig]
) -> ResumedRun:
    """Read the last valid checkpoint of a run.

    `make_config` receives the stored configuration and the settings that the run resolved. Raises
    UserError for a checkpoint that was not written by a training run.
    """
    path, content = newest_checkpoint(folder)
    try:
        info = content["gptlab"]
        began, *seconds = info["clock"]
        resumed = ResumedRun(
            folder=folder,
            path=path,
            config=make_config(content["config"], info["resolved"]),
            step=int(content["global_step"]),
            corpus=str(info["corpus"]),
            metrics_size=int(info["metrics_size"]),
            clock=ElapsedTime(str(began), *map(float, seconds)),
            command=str(info["command"]),
            tokenizer=dict(content["tokenizer"]),
        )
        shlex.split(resumed.command)  # raises ValueError for an invalid command
        if Path(resumed.corpus).name != resumed.corpus:
            raise ValueError("the corpus is not a folder in corpus_root")
        if not isinstance(content["callbacks"], dict):
            raise TypeError("no callback states")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: this checkpoint cannot be resumed") from None
    return resumed


def newest_checkpoint(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """Return the newest undamaged checkpoint and its content; warn about each damaged one."""
    checkpoints = folder / "checkpoints"
    others = sorted(checkpoints.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    first = [checkpoints / "last.ckpt", checkpoints / "previous.ckpt"]
    for path in [*(p for p in first if p.exists()), *(p for p in others if p not in first)]:
        try:
            return path, checkpoint.read_checkpoint(path)
        except UserError as error:
            print_status(f"warning: {error}; looking for another")
    raise UserError(f"resume={folder}: has no readable checkpoint")


@contextlib.contextmanager
def explain_restore_errors(resumed: ResumedRun | None) -> Iterator[None]:
    """Turn an exception from restoring a checkpoint's state into a UserError."""
    try:
        yield
    except Exception as error:
        restoring = any(
            "restore" in frame.name and "lightning" in Path(frame.filename).parts
            for frame in traceback.extract_tb(error.__traceback__)
        )
        if resumed is None or not restoring or failure_line(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{resumed.path}: its state does not fit this run ({reason})") from None


def override_group(override: str) -> str:
    return sweeps.override_key(override).partition(".")[0]


def check_overrides(overrides: list[str], run: Path | str | None) -> None:
    """Raise UserError for an override that would make the resumed run a different one."""
    for override in overrides:
        key, group = sweeps.override_key(override), override_group(override)
        if key not in (*CHANGEABLE_KEYS, *LOCATION_KEYS) and group not in CHANGEABLE_GROUPS:
            allowed = (*CHANGEABLE_KEYS, *CHANGEABLE_GROUPS, *LOCATION_KEYS)
            new_run = f"from its weights: {shell_quote(f'init_from={run}')} {override}"
            raise UserError(
                f"{override}: a resumed run keeps its settings; only {', '.join(allowed)} may be "
                f"typed; to start a new run {'leave resume= out' if group == 'model' else new_run}"
            )


def merge_config(
    config: TrainConfig,
    overrides: list[str],
    stored: dict[str, Any],
    resolved: dict[str, Any],
    folder: Path,
) -> TrainConfig:
    """Apply the run's resolved settings and the permitted overrides to its stored config.

    `config` is the current command's configuration.
    """
    stored = {**stored, **{group: {**stored[group]} for group in ("trainer", "optim")}}
    moved = "trainer.accelerator" in map(sweeps.override_key, overrides)  # to another device
    for key, value in resolved.items():
        if moved and key in DEVICE_KEYS:
            continue
        group, _, name = key.partition(".")
        stored[group][name] = value
    parts = {group: stored.pop(group) for group in CHANGEABLE_GROUPS}
    merged = to_config("train", OmegaConf.create(escape_interpolations(stored)))
    with plugin_errors_in(folder):
        require_trust(plugin_references(merged))
    merged.run_root, merged.preflight = config.run_root, config.preflight
    present = flatten(config)
    for key in map(sweeps.override_key, overrides):
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

    A class named in a config is instantiated, and a path decides where files are written: neither
    is taken from a run folder, which may be a stranger's. Raises UserError for other settings.
    """
    shipped: dict[str, dict[str, Any]] = {}
    for path in (CONF_DIR / group).glob("*.yaml"):
        shipped |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    restored = {}
    for name, settings in stored.items():
        own = shipped.get(name, {})
        numbers = {key for key, value in own.items() if isinstance(value, int | float)}
        typed = {k: v for k, v in settings.items() if k in numbers and isinstance(v, int | float)}
        # A switch may be null, decided later: logger.wandb.offline
        typed |= {
            k: v for k, v in settings.items() if own.get(k, "") is None and isinstance(v, bool)
        }
        restored[name] = own | typed
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
