"""Which checkpoint the final evaluation takes as the best."""

import json
from pathlib import Path

from gptlab.model import checkpoint
from tests.conftest import TINY


def test_the_last_step_becomes_the_best_checkpoint_if_it_is_better(command, tmp_path: Path) -> None:
    # The last validation in training is one step before the end.
    steps = ["trainer.max_steps=5", "trainer.eval_every=4", "data.valid_tokens=100000"]
    assert command("train", *TINY, "profile=smoke", *steps).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["scored"] == "last.ckpt, step 5"
    assert checkpoint.load_checkpoint(run / "checkpoints" / "best.ckpt").step == 5


def test_an_overfitted_run_is_scored_at_its_best_checkpoint(command, tmp_path: Path) -> None:
    text = "One day a cat met a dog in the wood."
    (tmp_path / "own.txt").write_text("\n<|endoftext|>\n".join([text] * 30), encoding="utf-8")
    (tmp_path / "held.txt").write_text(
        "\n<|endoftext|>\n".join([text[::-1]] * 30), encoding="utf-8"
    )
    own = ["data=text", "tokenizer=char", "data.path=own.txt", "data.valid_path=held.txt"]
    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2", "trainer.max_steps=60"]
    often = ["trainer.eval_every=5", "optim.lr=0.03", "optim.warmup_steps=0", "prompt=One"]
    result = command("train", *own, *small, *often, "eval_after=[perplexity,windows]")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    after = summary["after"]
    assert summary["scored"].startswith("best.ckpt") and "last step" in result.out
    assert after["valid/loss"] < after["last/loss"]
    # What the model memorised shows in the last checkpoint, not in the best one.
    assert after["windows/loss"] < 1 < after["valid/loss"]


def test_positions_that_were_never_trained_are_not_used(command, tmp_path: Path) -> None:
    size = ["model.context_length=64", "data.row_length=17", "data.batching=random"]
    result = command("train", *TINY, "profile=smoke", *size)
    assert result.code == 0 and "rows have 16 tokens" in result.out
    result = command("generate", "prompt=Once upon a time", "max_new_tokens=20")
    assert "the model sees 16 tokens at once" in result.err
