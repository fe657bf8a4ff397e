"""A run that exceeds GPU memory continues in smaller micro-batches, with the same losses."""

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
from tests.faults.compare import only_run

SMALL = [
    *TINY,
    *("trainer.max_steps=9", "trainer.eval_every=4", "trainer.log_every=1", "data.max_samples=60"),
    *("trainer.accumulate_grad_batches=1", "data.batch_size=6", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=3", "trainer.sample_every=4", "max_new_tokens=5", "logger=none"),
    "data.final_tokens=400",
]
WITHOUT_SIZES = [word for word in SMALL if not word.startswith(("model.", "data.max_samples"))]
PHASES = {  # the function that runs out of memory, and the position of the batch
    "training": (LanguageModel, "training_step", 1),
    "preflight": (preflight, "time_step", 1),
}


def losses(run: Path) -> list[tuple[int, float, str]]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [(int(row["step"]), float(row["train/loss"]), row["tokens"]) for row in rows]


def limit_memory(monkeypatch, phase: str, max_rows: int, after_calls: int = 0) -> None:
    """Simulate a GPU with memory for `max_rows` rows; calls up to `after_calls` succeed."""
    owner, name, batch_position = PHASES[phase]
    real, calls = getattr(owner, name), [0]

    def limited(*arguments):
        calls[0] += 1
        batch = arguments[batch_position]
        rows = len(batch["input"] if isinstance(batch, dict) else batch)
        if rows > max_rows and calls[0] > after_calls:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*arguments)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize(
    ("phase", "max_rows", "after_calls", "messages"),
    [
        ("training", 3, 5, ["after step 3 with data.batch_size=3"]),  # after an odd number of steps
        ("training", 2, 0, ["after step 0 with data.batch_size=3", "data.batch_size=1"]),
        ("preflight", 3, 0, ["restarting with data.batch_size=3"]),  # before the run folder exists
    ],
)
def test_smaller_micro_batches_give_the_same_losses(
    command, train_once, tmp_path: Path, monkeypatch, phase, max_rows, after_calls, messages
) -> None:
    expected = losses(train_once(*SMALL).folder)
    limit_memory(monkeypatch, phase, max_rows, after_calls)
    result = command("train", *SMALL)
    assert result.code == 0, result.err
    for message, line in zip(messages, result.err.splitlines(), strict=True):
        assert message in line
    run = only_run(tmp_path / "runs")
    actual = losses(run)
    assert [(step, tokens) for step, _, tokens in actual] == [(s, t) for s, _, t in expected]
    assert [loss for _, loss, _ in actual] == pytest.approx([x for _, x, _ in expected], rel=1e-5)
    stored = checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")["config"]
    rows = stored["data"]["batch_size"]
    assert rows <= 3 and stored["trainer"]["accumulate_grad_batches"] * rows == 6


@pytest.mark.parametrize(
    ("max_rows", "settings"), [(3, ["trainer.halve_on_out_of_memory=false"]), (0, [])]
)
def test_a_run_ends_where_halving_is_off_or_one_row_is_too_much(
    command, monkeypatch, max_rows: int, settings: list[str]
) -> None:
    limit_memory(monkeypatch, "training", max_rows)
    result = command("train", *SMALL, *settings)
    assert result.code == 2 and result.err.splitlines()[-1].startswith("error: out of memory")
    assert result.err.count("\n") == (1 if settings else 3)  # retries with 3 rows and with 1


@pytest.mark.fast
@pytest.mark.parametrize(("rows", "smaller_rows"), [(8, 4), (9, 3), (7, 1), (1, None)])
def test_the_next_smaller_divisor_is_used(rows: int, smaller_rows: int | None) -> None:
    config = TrainConfig()
    config.data.batch_size = rows
    smaller = halve_micro_batch(config)
    assert (smaller and smaller.data.batch_size) == smaller_rows
    assert smaller is None or smaller.trainer.accumulate_grad_batches == rows // smaller_rows
    config.trainer.tokens_per_step = 1 << 20
    smaller = halve_micro_batch(config)
    assert smaller is None or smaller.trainer.accumulate_grad_batches == 1


def test_a_resumed_run_can_fail_in_its_preflight(
    command, train_once, tmp_path: Path, monkeypatch
) -> None:
    """In the folder of another run, which is not taken for its own."""
    run = train_once(*SMALL).copy(tmp_path)
    (run / "summary.json").unlink()
    monkeypatch.chdir(run)
    limit_memory(monkeypatch, "preflight", 3)
    corpora = f"corpus_root={tmp_path / 'corpora'}"
    result = command("train", f"resume={run}", corpora)
    assert result.code == 0 and "after step 9 with data.batch_size=3" in result.err, result.err
    assert command("train", *SMALL, corpora, f"run_root={tmp_path / 'new'}").code == 0
    assert len(losses(only_run(tmp_path / "new"))) == 9


def test_a_run_without_memory_for_its_final_evaluation_can_be_resumed(
    command, tmp_path: Path, monkeypatch
) -> None:
    def fail(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr("gptlab.training.final_evaluation.finish_run", fail)
        result = command("train", *SMALL)
    assert result.code == 2 and "out of memory in the final evaluation" in result.err
    assert "restarting" not in result.err
    assert command("train", "resume=latest").code == 0


def test_a_finetuned_model_keeps_its_structure_in_a_retry(
    command, train_once, tmp_path: Path, monkeypatch
) -> None:
    first = train_once(*SMALL).copy(tmp_path)
    limit_memory(monkeypatch, "training", 3, 5)
    init = [f"init_from={first}", "run_root=second", "tokenizer.unknown=skip"]
    result = command("train", *WITHOUT_SIZES, *init, "data.max_samples=60")
    assert result.code == 0 and "after step 3 with data.batch_size=3" in result.err, result.err
    last = checkpoint.load_checkpoint(only_run(tmp_path / "second") / "checkpoints" / "last.ckpt")
    assert (last.step, last.net.config.d_model) == (9, 16)  # the default is another width


def test_a_baseline_that_is_retried_stays_one_run(
    command, train_once, tmp_path: Path, monkeypatch
) -> None:
    first = train_once(*SMALL).copy(tmp_path)
    limit_memory(monkeypatch, "preflight", 3, 1)  # the first preflight succeeds
    init = [f"init_from={first}", "run_root=second", "tokenizer.unknown=skip"]
    result = command("train", *WITHOUT_SIZES, *init, "data=toy_spam", "data.max_samples=200")
    assert result.code == 0 and "restarting with data.batch_size=3" in result.err, result.err
    assert len([run for run in (tmp_path / "second").iterdir() if run.name[0] != "."]) == 2
