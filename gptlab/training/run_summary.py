"""summary.json: what a finished run was, where it ran, and what came of it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gptlab.config.sweeps import COMMAND_ENV
from gptlab.data.corpus import Corpus
from gptlab.training.run_plan import RunPlan


@dataclass
class RunSummary:
    """Everything a comparison of runs needs, beside the run's configuration and metrics."""

    experiment: str | None
    overrides: list[str]  # of a sweep's job, those in which the jobs differ
    command: str
    began: str  # local time, ISO 8601
    seconds: float  # from the command to its end
    cpu_seconds: float  # of all threads
    machine: dict[str, Any]
    commit: str | None  # of gptlab's own code
    parameters: int
    steps: int
    tokens: int  # trained on, padding left out
    epochs: float
    corpus: dict[str, Any]
    scored: str  # the checkpoint that was scored at the end, and its step
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        temporary = folder / ".summary.json.tmp"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(folder / "summary.json")


def typed_command() -> str:
    """What was typed."""
    return os.environ.get(COMMAND_ENV, shlex.join(["python", *sys.argv]))


def machine_facts(plan: RunPlan) -> dict[str, Any]:
    device = {"cpu": cpu_name}.get(plan.accelerator, accelerator)
    return {
        "device": device(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "precision": plan.precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
    }


def accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "Apple GPU (MPS)"


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


CODE = ("gptlab", "conf", "train.py")


def git_commit() -> str | None:
    """The revision of the code, where it is a clone; `+` where something was changed since."""
    home = Path(__file__).resolve().parent.parent.parent
    git = ("git", "--no-optional-locks")  # never in the way of a person's own git
    try:
        arguments = {"cwd": home, "capture_output": True, "text": True, "timeout": 5, "check": True}
        revision = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **arguments).stdout
        changed = subprocess.run([*git, "status", "--porcelain", "-uno", *CODE], **arguments).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.strip() + ("+" if changed.strip() else "")


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    names = ("split_rule", "mojibake", "repaired", "duplicates_across_splits")
    return {
        "name": corpus.folder.name,
        "vocabulary": corpus.tokenizer.vocab_size,
        **{name: corpus.meta[name] for name in names},
        "splits": {
            name: {"documents": split.documents, "tokens": split.tokens}
            for name, split in corpus.splits.items()
        },
    }
