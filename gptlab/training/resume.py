"""Going on with a run that was stopped, however it was stopped.

What is stored rules: the configuration, and all that the run decided by itself (precision,
threads, steps), come from the checkpoint, so that the rest of the run is what it would have been.
"""

import contextlib
import re
import shlex
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gptlab.config.keys import flatten
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import load_tokenizer
from gptlab.model import checkpoint
from gptlab.training.foreign import refuse_foreign
from gptlab.training.init_weights import required_tokenizer
from gptlab.training.run_plan import RunPlan
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import link_or_copy
from gptlab.utils.console import print_status
from gptlab.utils.elapsed_time import ElapsedTime
from gptlab.utils.errors import UserError, describe_resource_error

# What may be said anew when a run goes on; all else would make it another run.
CHANGEABLE_KEYS = (
    "trainer.max_steps",
    "trainer.log_every",
    "trainer.fast_loop",
    "trainer.keep_freed_memory",
)
CHANGEABLE_GROUPS = ("logger", "callbacks")
LOCATION_KEYS = ("resume", "preflight", "run_root", "corpus_root")


class NothingToDo(Exception):
    """The run that was to go on has ended already. No error: its message is for the user."""


@dataclass
class ResumedRun:
    """A run that goes on: where, from what, and with which settings."""

    folder: Path
    path: Path  # the checkpoint
    config: TrainConfig
    step: int
    corpus: str  # the name of the text it was trained on
    metrics_size: int  # bytes of metrics.csv at that step
    clock: ElapsedTime
    command: str  # that began it
    tokenizer: dict[str, Any]  # of its model, as plain values

    def open_corpus(self) -> Corpus:
        """The corpus it was trained on, as it was kept; made anew from its sources if it is gone.

        Raises UserError where these have become another text.
        """
        kept = Path(self.config.corpus_root).expanduser() / self.corpus
        if kept.is_dir():
            with contextlib.suppress(UserError):  # damaged: it is made anew
                return Corpus(kept)
        config, given = self.config, None
        if config.init_from or config.model.pretrained:
            given = required_tokenizer(load_tokenizer(self.tokenizer), config)
        made = open_corpus(
            config.data, config.tokenizer, config.seed, config.corpus_root, given=given
        )
        if made.folder.name != self.corpus:
            raise UserError(
                f"resume={self.folder}: its text has changed: the run was trained on "
                f"{self.corpus}, and these settings now give {made.folder.name}; put the files "
                f"back as they were, or begin a new run with init_from={self.folder}"
            )
        return made

    def mend(self) -> None:
        """Makes the checkpoint that the run goes on from the last one, whose place a damaged one
        may have: at its last step a run saves no other."""
        last = self.folder / "checkpoints" / "last.ckpt"
        if self.path != last:
            link_or_copy(self.path, last).replace(last)


def resolved_settings(plan: RunPlan, threads: int) -> dict[str, Any]:
    """What a run settled by itself and keeps when it goes on, by key."""
    return {
        "trainer.accelerator": plan.accelerator,
        "trainer.precision": plan.precision,
        "trainer.compile": plan.compile,
        "trainer.threads": threads,
        "trainer.max_steps": plan.steps,
        "trainer.max_epochs": None,
        "trainer.eval_every": plan.eval_every,
        "trainer.checkpoint_every": plan.checkpoint_every,
        "trainer.sample_every": plan.sample_every,
        "optim.warmup_steps": plan.optim.warmup_steps,
    }


def find_resumed_run(
    config: TrainConfig, typed: list[str], folder: Path | None = None
) -> ResumedRun:
    """The run that `resume=` means, or that stands in `folder` (a sweep's job).

    Raises NothingToDo for one that has ended, UserError for one that cannot go on.
    """
    folder = folder or run_dir.find_unfinished(config.resume, config.run_root)
    if folder is None:
        raise NothingToDo(f"every run in {config.run_root} is finished: there is nothing to resume")
    longer = any(override_name(argument) == "trainer.max_steps" for argument in typed)
    if run_dir.is_finished(folder) and not longer:
        raise NothingToDo(f"{folder} is finished: there is nothing to resume")

    def settings(stored: dict[str, Any], chosen: dict[str, Any]) -> TrainConfig:
        return merge_config(config, typed, stored, chosen, folder)

    resumed = read_resumed_run(folder, settings)
    if longer and resumed.config.trainer.max_steps <= resumed.step and run_dir.is_finished(folder):
        raise NothingToDo(
            f"{folder} has {resumed.step:,} steps already: there is nothing to resume"
        )
    return resumed


def reload_run(folder: Path, config: TrainConfig) -> ResumedRun:
    """The run in `folder` from its last checkpoint, with these settings instead of the stored; its
    model is what the run made of them."""
    return read_resumed_run(
        folder, lambda stored, _: replace(config, model=ModelConfig(**stored["model"]))
    )


def read_resumed_run(folder: Path, settings: Callable[[dict, dict], TrainConfig]) -> ResumedRun:
    """What the last checkpoint of a run tells; `settings` makes its configuration of the stored
    one and of what the run decided. Raises UserError where that is not all there."""
    path, content = newest_checkpoint(folder)
    try:
        facts = content["gptlab"]
        stored, chosen = content["config"], facts["decided"]
        corpus, size = str(facts["corpus"]), int(facts["metrics_size"])
        began, *seconds = facts["clock"]
        step, clock = int(content["global_step"]), ElapsedTime(str(began), *map(float, seconds))
        command = str(facts["command"])
        shlex.split(command)  # or it is none: ValueError
        if Path(corpus).name != corpus or not isinstance(content["callbacks"], dict):
            raise ValueError("no corpus of a corpus_root, or no state")
        made, tokenizer = settings(stored, chosen), dict(content["tokenizer"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: was not written to be resumed") from None
    return ResumedRun(folder, path, made, step, corpus, size, clock, command, tokenizer)


@contextlib.contextmanager
def restoring(resumed: ResumedRun | None) -> Iterator[None]:
    """Within, whatever a checkpoint of strange content provokes in its restoring is a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        within = [f.name for f in frames if f.filename.endswith("checkpoint_connector.py")]
        restored = any("restore" in name for name in within)
        if resumed is None or not restored or describe_resource_error(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{resumed.path}: its parts do not fit together ({reason})") from None


def newest_checkpoint(folder: Path) -> tuple[Path, Any]:
    """The last checkpoint that is whole, and its content; damaged ones are named and passed by."""
    checkpoints = folder / "checkpoints"
    rest = sorted(checkpoints.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    first = [checkpoints / "last.ckpt", checkpoints / "previous.ckpt"]
    for path in [*(p for p in first if p.exists()), *(p for p in rest if p not in first)]:
        try:
            return path, checkpoint.read_checkpoint(path)
        except UserError as error:
            print_status(f"warning: {error}; the one before it is taken")
    raise UserError(f"resume={folder}: holds no checkpoint that can be read")


def override_name(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def merge_config(
    config: TrainConfig,
    typed: list[str],
    stored: dict[str, Any],
    chosen: dict[str, Any],
    folder: Path,
) -> TrainConfig:
    """The stored configuration, with what the run decided, and of what was typed what may change.

    Raises UserError for anything else typed.
    """
    from gptlab.config.cli import to_config  # the launcher imports nothing of training

    stored = {**stored, **{group: {**stored[group]} for group in ("trainer", "optim")}}
    for key, value in chosen.items():  # typed and within bounds, as if it had been typed
        group, _, last = key.partition(".")
        stored[group][last] = value
    merged = to_config("train", OmegaConf.create(escape_interpolations(stored)))
    values: dict[str, Any] = {}
    merged.run_root, merged.preflight = config.run_root, config.preflight
    now = flatten(config)
    for argument in typed:
        key = override_name(argument)
        if key in CHANGEABLE_KEYS:
            values[key] = now[key]
        elif key == "corpus_root":
            merged.corpus_root = config.corpus_root
        elif key not in LOCATION_KEYS and key.split(".")[0] not in CHANGEABLE_GROUPS:
            raise UserError(
                f"{argument}: a run that goes on keeps its settings; only "
                f"{', '.join((*CHANGEABLE_KEYS, *CHANGEABLE_GROUPS))} may change; a new run "
                f"from its weights: init_from={folder} {argument}"
            )
    for key, value in values.items():
        group, _, last = key.partition(".")
        setattr(merged, group, replace(getattr(merged, group), **{last: value}))
    for group in CHANGEABLE_GROUPS:
        if any(override_name(a).split(".")[0] == group for a in typed):
            setattr(merged, group, getattr(config, group))
        else:
            refuse_foreign(group, getattr(merged, group), folder)
    return merged


def escape_interpolations(value: Any) -> Any:
    """With every `${` escaped: a stored text is no interpolation."""
    if isinstance(value, dict):
        return {key: escape_interpolations(each) for key, each in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(each) for each in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
