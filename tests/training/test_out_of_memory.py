"""A GPU without memory for a micro-batch: the same run in smaller ones."""

import csv
from pathlib import Path

import pytest
import torch

from gptlab.config.schema import TrainConfig
from gptlab.model import checkpoint
from gptlab.training import preflight
from gptlab.training.module import LanguageModel
from gptlab.training.out_of_memory import halve_micro_batch
from tests.conftest import TINY
from tests.faults.compare import only

SMALL = [
    *TINY,
    *("trainer.max_steps=9", "trainer.eval_every=4", "trainer.log_every=1", "data.max_samples=60"),
    *("trainer.accumulate_grad_batches=1", "data.batch_size=6", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=3", "trainer.sample_every=4", "max_new_tokens=5", "logger=none"),
]


def losses(root: Path) -> list[tuple[int, float, str]]:
    with (only(root) / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [(int(row["step"]), float(row["train/loss"]), row["tokens"]) for row in rows]


def fails(monkeypatch, where: str, most_rows: int, from_call: int = 0) -> None:
    """A device that has memory for so many rows; from some call on, when other programs came."""
    owner, name, batch_at = PLACES[where]
    real, calls = getattr(owner, name), [0]

    def limited(*arguments):
        calls[0] += 1
        batch = arguments[batch_at]
        rows = len(batch["input"] if isinstance(batch, dict) else batch)
        if rows > most_rows and calls[0] > from_call:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*arguments)

    monkeypatch.setattr(owner, name, limited)


PLACES = {
    "training": (LanguageModel, "training_step", 1),
    "preflight": (preflight, "time_step", 1),
}


@pytest.mark.parametrize(
    ("where", "most_rows", "from_call", "told"),
    [
        ("training", 3, 5, ["after step 3 with data.batch_size=3"]),  # an odd number of steps done
        ("training", 2, 0, ["after step 0 with data.batch_size=3", "data.batch_size=1"]),
        ("preflight", 3, 0, ["restarting with data.batch_size=3"]),  # before there is a run
    ],
)
def test_the_same_losses_in_smaller_micro_batches(
    command,
    tmp_path: Path,
    monkeypatch,
    where: str,
    most_rows: int,
    from_call: int,
    told: list[str],
) -> None:
    assert command("train", *SMALL, "run_root=whole").code == 0
    fails(monkeypatch, where, most_rows, from_call)
    result = command("train", *SMALL)
    assert result.code == 0, result.err
    for words, line in zip(told, result.err.splitlines(), strict=True):
        assert words in line
    ours, theirs = losses(tmp_path / "runs"), losses(tmp_path / "whole")
    assert [(step, tokens) for step, _, tokens in ours] == [(s, t) for s, _, t in theirs]
    assert [loss for _, loss, _ in ours] == pytest.approx([loss for _, loss, _ in theirs], rel=1e-5)
    stored = checkpoint.read_checkpoint(only(tmp_path / "runs") / "checkpoints" / "last.ckpt")[
        "config"
    ]
    rows = stored["data"]["batch_size"]
    assert rows <= 3 and stored["trainer"]["accumulate_grad_batches"] * rows == 6


def test_not_where_it_is_not_wanted(command, tmp_path: Path, monkeypatch) -> None:
    fails(monkeypatch, "training", 3, 3)
    result = command("train", *SMALL, "trainer.halve_on_out_of_memory=false")
    assert result.code == 2 and result.err.startswith("error: out of memory")
    assert result.err.count("\n") == 1


def test_a_single_row_is_the_least(command, monkeypatch) -> None:
    fails(monkeypatch, "training", 0)
    result = command("train", *SMALL)
    assert result.code == 2 and result.err.splitlines()[-1].startswith("error: out of memory")


@pytest.mark.parametrize(("rows", "left"), [(8, 4), (9, 3), (7, 1), (1, None)])
def test_the_next_smaller_part(rows: int, left: int | None) -> None:
    config = TrainConfig()
    config.data.batch_size = rows
    smaller = halve_micro_batch(config)
    assert (smaller and smaller.data.batch_size) == left
    assert smaller is None or smaller.trainer.accumulate_grad_batches == rows // left
    config.trainer.tokens_per_step = 1 << 20
    smaller = halve_micro_batch(config)
    assert smaller is None or smaller.trainer.accumulate_grad_batches == 1


def test_before_a_resumed_run_goes_on(command, tmp_path: Path, monkeypatch) -> None:
    """No memory for the preflight of a run that goes on, in the folder of another run."""
    assert command("train", *SMALL).code == 0
    run = only(tmp_path / "runs")
    (run / "summary.json").unlink()
    monkeypatch.chdir(run)
    fails(monkeypatch, "preflight", 3)
    places = [f"corpus_root={tmp_path / 'corpora'}"]
    result = command("train", f"resume={run}", *places)
    assert result.code == 0 and "after step 9 with data.batch_size=3" in result.err, result.err
    assert command("train", *SMALL, *places, f"run_root={tmp_path / 'new'}").code == 0
    assert len(losses(tmp_path / "new")) == 9


def test_no_memory_for_the_final_figures(command, tmp_path: Path, monkeypatch) -> None:
    def none_left(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr("gptlab.training.final_evaluation.finish_run", none_left)
        result = command("train", *SMALL)
    assert result.code == 2 and "out of memory in the final evaluation" in result.err
    assert "restarting" not in result.err
    assert command("train", "resume=latest").code == 0


def test_a_finetuned_model_keeps_its_structure(command, tmp_path: Path, monkeypatch) -> None:
    assert command("train", *SMALL, "run_root=first", "model.d_model=24").code == 0
    sizes = [word for word in SMALL if not word.startswith("model.")]
    fails(monkeypatch, "training", 3, 5)
    begin = [f"init_from={only(tmp_path / 'first')}", "run_root=then", "tokenizer.unknown=skip"]
    result = command("train", *sizes, *begin)
    assert result.code == 0 and "after step 3 with data.batch_size=3" in result.err, result.err
    last = checkpoint.load_checkpoint(only(tmp_path / "then") / "checkpoints" / "last.ckpt")
    assert (last.step, last.net.config.d_model) == (9, 24)


def test_a_baseline_without_memory_is_no_other_run(command, tmp_path: Path, monkeypatch) -> None:
    assert command("train", *SMALL, "run_root=first").code == 0
    sizes = [word for word in SMALL if not word.startswith(("model.", "data.max_samples"))]
    fails(monkeypatch, "preflight", 3, 1)  # the first preflight passes
    begin = [f"init_from={only(tmp_path / 'first')}", "run_root=then", "tokenizer.unknown=skip"]
    result = command("train", *sizes, *begin, "data=toy_spam", "data.max_samples=200")
    assert result.code == 0 and "restarting with data.batch_size=3" in result.err, result.err
    assert len([run for run in (tmp_path / "then").iterdir() if run.name[0] != "."]) == 2
