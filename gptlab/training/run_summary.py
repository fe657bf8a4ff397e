"""Summarize a finished run in summary.json: command, machine, corpus, results."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gptlab.config.keys import PROJECT_DIR
from gptlab.config.sweeps import COMMAND_ENV
from gptlab.data.corpus import Corpus
from gptlab.training.run_plan import RunPlan
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError
from gptlab.utils.program import command_line
from gptlab.utils.system import cpu_name


@dataclass
class RunSummary:
    """The content of summary.json; config.yaml and metrics.csv hold the rest."""

    experiment: str | None
    overrides: list[str]  # the ones that differ between the jobs of a sweep
    command: str
    began: str  # local time, ISO 8601
    seconds: float  # wall time, over all processes that trained it
    cpu_seconds: float  # summed over all threads
    machine: dict[str, Any]
    commit: str | None  # of gptlab's code; + means changed since
    parameters: int
    steps: int
    tokens: int  # trained on, without padding
    epochs: float
    corpus: dict[str, Any]
    scored: str  # the checkpoint that `after` evaluates, and its step
    before: dict[str, float] = field(default_factory=dict)  # results by suite and metric
    after: dict[str, float] = field(default_factory=dict)

    @property
    def valid_loss(self) -> float:
        """The loss of `scored` on the held-out text, in nats per token (classifiers: per text)."""
        return self.after["valid/loss"]

    @property
    def perplexity(self) -> float:
        """exp(valid_loss)."""
        return self.after["valid/perplexity"]

    @property
    def bits_per_byte(self) -> float | None:
        """The held-out loss in bits per UTF-8 byte; None for classifiers."""
        return self.after.get("valid/bits_per_byte")

    @property
    def best_possible_loss(self) -> float | None:
        """The entropy of the held-out text in nats per token, where it is known."""
        return self.after.get("valid/best_possible")

    @property
    def accuracy(self) -> float | None:
        """The share of held-out texts in the right class; None for language models."""
        return self.after.get("valid/accuracy")

    @classmethod
    def read(cls, folder: Path) -> "RunSummary":
        """Read summary.json; raise UserError if it is missing or damaged."""
        path = folder / "summary.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise UserError(f"{path}: missing or damaged") from None

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_files_atomically(folder, {"summary.json": text.encode()})


@dataclass
class FinishedRun:
    folder: Path
    summary: RunSummary


def typed_command() -> str:
    """Return the command as the user typed it, before quoting for Hydra."""
    return os.environ.get(COMMAND_ENV) or command_line("train", *sys.argv[1:])


def machine_metadata(plan: RunPlan) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "Apple GPU (MPS)"
    return {
        "device": cpu_name() if plan.accelerator == "cpu" else gpu,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "precision": plan.precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
    }


def git_commit() -> str | None:
    """Return the revision of gptlab's git clone, with a `+` for uncommitted changes."""
    try:
        if not (PROJECT_DIR / ".git").exists():  # an installed copy, perhaps in another repository
            return None
        changes = run_git("status", "--porcelain", "-uno", "gptlab", "conf", "train.py")
        return run_git("rev-parse", "--short", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def run_git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]  # do not block the user's own git
    done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, timeout=5, check=True)
    return done.stdout.decode(errors="replace").strip()


def corpus_metadata(corpus: Corpus) -> dict[str, Any]:
    keys = ("split_rule", "mojibake", "repaired", "duplicates_across_splits")
    return {
        "name": corpus.folder.name,
        "vocabulary": corpus.tokenizer.vocab_size,
        **{key: corpus.meta[key] for key in keys},
        "splits": {
            name: {"documents": split.documents, "tokens": split.tokens}
            for name, split in corpus.splits.items()
        },
    }
