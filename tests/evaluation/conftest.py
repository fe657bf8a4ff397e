"""What the evaluation tests share: HellaSwag questions, small networks, one evaluated run."""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.config.schema import ModelConfig
from gptlab.evaluation import perplexity
from gptlab.model.gpt import GPT
from tests.conftest import ROOT, TINY

QUESTIONS = [
    ("A man sits on a roof. He", ["starts to sing.", "is a fish", "the the the", "runs."], 0),
    ("The cat", ["sleeps all day long in the sun", "bark", "of", "two"], 2),
    ("She opens", ["a door", "a window and looks out", "", "x"], 1),
]


def write_questions(path: Path) -> Path:
    rows = [{"ctx": c, "endings": e, "label": label} for c, e, label in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def gpt2_net(**changes: object) -> GPT:
    """A small untrained network with GPT-2's vocabulary, and weights large enough to differ."""
    torch.manual_seed(0)
    settings = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 64, "init_std": 0.3}
    return GPT(ModelConfig(vocab_size=50304, **(settings | changes))).eval()


def read_events(run: Path) -> EventAccumulator:
    sizes = {"tensors": 0, "scalars": 0, "images": 0}
    return EventAccumulator(str(run), size_guidance=sizes).Reload()


class EvaluatedRun(NamedTuple):
    folder: Path
    out: str


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory, ordered_boards: None) -> EvaluatedRun:
    """A run of two steps with all suites for text, and all plots of its inside. Do not change."""
    folder, out = tmp_path_factory.mktemp("evaluated"), io.StringIO()
    arguments = [
        *(*TINY, "profile=smoke", "tokenizer=gpt2", "num_samples=2", "data.final_tokens=null"),
        *("model.position=learned", "model.feed_forward=gelu_tanh"),  # as GPT-2, to be exported
        f"hellaswag.path={write_questions(folder / 'val.jsonl')}",
        "eval_before=[perplexity,samples,hellaswag]",
        "eval_after=[perplexity,estimate,windows,memorisation,hellaswag,bleu_rouge,text_quality]",
        "log_interpretability=[attention,logit_lens,surprise,embedding]",
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT))
        patch.setattr(perplexity, "ESTIMATE_BATCHES", 20)
        patch.setattr(sys, "argv", ["train.py", *arguments])
        importlib.import_module("train").main()
    (run,) = (folder / "runs").iterdir()
    return EvaluatedRun(run, out.getvalue())
