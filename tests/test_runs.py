"""Whole runs: what they tell, what they leave, how they end."""

import csv
import errno
import math
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule, TrainingBatches
from gptlab.model import checkpoint
from gptlab.training.callbacks.checkpointing import AtomicCheckpointIO
from tests.conftest import ROOT, TINY, files_below

SMOKE = [
    *(*TINY, "profile=smoke", "trainer.max_steps=4", "data.batch_size=2"),
    *("trainer.sample_every=4", "data.valid_tokens=1000", "data.final_tokens=1000"),
]


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def only_run(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_a_run_tells_and_leaves_everything(command, tmp_path: Path) -> None:
    result = command("train", *SMOKE, "num_samples=2")
    assert result.code == 0, result.err
    assert result.err == ""
    told = [
        "training", "model", "parameters", "data", "toy_stories-words", "steps", "passes",
        "optimizer", "device", "32-true", "time", "about", "run folder", "step 4: Once upon a time",
        "step 4/4", "tokens/s", "done in", "validation", "perplexity", "best possible",
        "checkpoints", "next", "python generate.py prompt=\"Once upon a time\"",
        "tensorboard --logdir runs",
    ]  # fmt: skip
    place = 0
    for words in told:
        assert words in result.out, words
        if words not in ("step 4: Once upon a time", "step 4/4", "tokens/s", "done in"):
            assert result.out.find(words, place) >= 0, f"{words} comes too early"
    folder = only_run(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}_toy_toy_stories", folder.name)
    names = files_below(folder)
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert name in names
    assert "samples/step_4.txt" in names and any("tfevents" in name for name in names)
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "multirun").exists()
    rows = metrics(folder)
    assert list(rows[0])[:3] == ["step", "tokens", "epoch"]
    steps = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows if row["valid/loss"]] == [2, 4]
    final = re.search(r"loss ([\d.]+) nats/token \(natural-log units", result.out)
    best = min(float(row["valid/loss"]) for row in rows if row["valid/loss"])
    assert float(final[1]) == pytest.approx(best, abs=2e-4)


def test_tensorboard_has_the_tags(command, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command("train", *SMOKE).code == 0
    events = EventAccumulator(str(only_run(tmp_path))).Reload()
    scalars = events.Tags()["scalars"]
    for tag in (
        *("train/loss", "train/perplexity", "train/lr", "train/tokens_per_second"),
        *("train/tokens", "valid/loss", "valid/perplexity", "valid/best_possible"),
    ):
        assert tag in scalars
    assert any("samples" in tag for tag in events.Tags()["tensors"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_the_same_command_twice_gives_the_same_bits(command, tmp_path: Path) -> None:
    runs = []
    for root in ("a", "b"):
        arguments = [*SMOKE, f"run_root={root}", "model.dropout=0.2", "data.num_workers=0"]
        assert command("train", *arguments).code == 0
        (folder,) = (tmp_path / root).iterdir()
        content = checkpoint.read_checkpoint(folder / "checkpoints" / "last.ckpt")
        runs.append((content["state_dict"], [r["train/loss"] for r in metrics(folder)]))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(a, runs[1][0][name]) for name, a in runs[0][0].items())


def test_another_seed_is_another_run(command, tmp_path: Path) -> None:
    losses = []
    for seed in (1, 2):
        assert command("train", *SMOKE, f"seed={seed}", f"run_root=r{seed}").code == 0
        (folder,) = (tmp_path / f"r{seed}").iterdir()
        losses.append(metrics(folder)[0]["train/loss"])
    assert losses[0] != losses[1]


def test_epochs_count_rows_and_leave_checkpoints_and_samples(command, tmp_path: Path) -> None:
    result = command(
        "train", *SMOKE, "data.max_samples=20", "data.split=0.2", "trainer.max_epochs=2",
        "trainer.max_steps=null", "trainer.checkpoint_every_epoch=true",
        "trainer.sample_every_epoch=true", "trainer.keep_step_checkpoints=true",
    )  # fmt: skip
    assert result.code == 0, result.err
    names = files_below(only_run(tmp_path))
    for name in ("checkpoints/epoch_1.ckpt", "checkpoints/epoch_2.ckpt", "checkpoints/step_2.ckpt"):
        assert name in names
    text = (only_run(tmp_path) / "samples" / "generated_text_epoch_2.txt").read_text()
    assert "[greedy]\nOnce upon a time" in text and "[sampled]\nOnce upon a time" in text
    assert float(metrics(only_run(tmp_path))[-1]["epoch"]) >= 2


def test_a_checkpoint_is_enough_to_write_with(command, tmp_path: Path) -> None:
    assert command("train", *SMOKE).code == 0
    path = only_run(tmp_path) / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == 4 and content["config"]["model"]["d_model"] == 16
    assert all(name.startswith("net.") for name in content["state_dict"])
    moved = tmp_path / "elsewhere.ckpt"
    path.rename(moved)
    for left in (tmp_path / "runs", tmp_path / "corpora"):
        left.rename(tmp_path / f"hidden-{left.name}")
    result = command("generate", f"run={moved}", "prompt=Once upon a time", "max_new_tokens=5")
    assert result.code == 0 and result.out.startswith("Once upon a time")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"step": 1}, path)

    def no_space(_content: object, file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    from gptlab.utils.errors import UserError

    with pytest.raises(UserError, match="disk is full"):
        writer.save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert files_below(tmp_path) == ["last.ckpt"]


def test_a_full_disk_ends_a_run_in_one_line(command, tmp_path: Path, monkeypatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gptlab.training.callbacks.checkpointing.torch.save", no_space)
    result = command("train", *SMOKE)
    assert result.code == 2
    assert "disk is full" in result.err and "Traceback" not in result.err


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_foreign_checkpoints_are_refused_and_not_executed(command, tmp_path: Path) -> None:
    assert command("train", *SMOKE).code == 0
    good = (only_run(tmp_path) / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": Malicious()}, tmp_path / "malicious.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Malicious()))
    wrong = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    wrong["config"]["model"]["d_model"] = 32
    torch.save(wrong, tmp_path / "wrong.ckpt")
    words = {
        "half": "truncated", "empty": "truncated", "text": "truncated, or not a checkpoint",
        "other": "not a gptlab checkpoint", "list": "not a gptlab checkpoint",
        "malicious": "refused", "pickle": "not a checkpoint", "wrong": "do not fit together",
    }  # fmt: skip
    for name, reason in words.items():
        result = command("generate", f"run={tmp_path / name}.ckpt", "prompt=Once")
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
        assert reason in result.err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_the_run(command, tmp_path, monkeypatch, number, code) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(
        "gptlab.training.callbacks.sample_writer.SampleWriter.write_samples",
        lambda *_: os.kill(os.getpid(), number),
    )
    result = command("train", *SMOKE, "trainer.sample_every=2", "trainer.max_steps=500")
    assert result.code == code
    assert "stopped after step" in result.err and "Traceback" not in result.err
    stopped = int(re.search(r"after step (\d+)", result.err)[1])
    content = checkpoint.read_checkpoint(only_run(tmp_path) / "checkpoints" / "last.ckpt")
    assert content["global_step"] == stopped <= 4
    assert signal.getsignal(signal.SIGINT) is before


def test_no_model_beats_the_best_possible(command, tmp_path: Path) -> None:
    """A short real training stays above the grammar's own likelihood, and far below chance."""
    result = command(
        "train", "model.n_layer=1", "model.d_model=32", "trainer.max_steps=150", "optim.lr=1e-2",
        "data.max_samples=2000", "trainer.sample_every=0", "data.batch_size=8",
    )  # fmt: skip
    assert result.code == 0, result.err
    ratio = float(re.search(r"this model has ([\d.]+) times that", result.out)[1])
    assert 1.0 < ratio < 3.5


def test_an_unseen_future_is_why_the_bound_holds(command, tmp_path: Path) -> None:
    """With the leak switched on, the same training goes under the best possible loss."""
    result = command(
        "train", "model.n_layer=1", "model.d_model=64", "model.init_std=0.08", "optim.lr=1e-2",
        "model.position=rotary", "trainer.max_steps=150", "trainer.sample_every=0",
        "data.max_samples=2000", "data.batch_size=8", "model.let_attention_see_the_future=true",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "WARNING    attention sees the future" in result.out
    assert float(re.search(r"this model has ([\d.]+) times that", result.out)[1]) < 1.0


def test_clipping_bounds_the_norm_and_reports_the_unclipped(command, tmp_path: Path) -> None:
    for clip in ("0.01", "0"):
        arguments = [
            *SMOKE,
            f"optim.grad_clip={clip}",
            "optim=sgd",
            "optim.momentum=0",
            "optim.lr=1",
        ]
        schedule = ["optim.schedule=constant", "trainer.max_steps=1", f"run_root=c{clip}"]
        assert command("train", *arguments, *schedule).code == 0
    moved, norms = [], []
    for clip in ("0.01", "0"):
        (folder,) = (tmp_path / f"c{clip}").iterdir()
        norms.append(float(metrics(folder)[0]["train/gradient_norm"]))
        weights = checkpoint.read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        moved.append(weights)
    assert norms[0] == norms[1] > 0.1
    names = [name for name in moved[0] if name != "net.head.weight"]  # tied to the embedding
    steps = {name: moved[0][name] - moved[1][name] for name in names}
    # Same gradient g, so the weights differ by (1 - 0.01 / |g|) times g: nearly all of it.
    size = math.sqrt(sum(float(step.square().sum()) for step in steps.values()))
    assert size == pytest.approx(norms[0] - 0.01, rel=1e-3)


def test_logged_rate_is_the_one_that_was_used(command, tmp_path: Path) -> None:
    arguments = ["optim.warmup_steps=4", "optim.lr=0.4", "optim.schedule=constant"]
    assert command("train", *SMOKE, *arguments).code == 0
    rates = [float(r["train/lr"]) for r in metrics(only_run(tmp_path)) if r["train/lr"]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_tokens_per_step_and_other_intervals(command, tmp_path: Path) -> None:
    arguments = ["trainer.accumulate_grad_batches=1", "trainer.tokens_per_step=768"]
    result = command("train", *SMOKE, *arguments, "trainer.eval_every=0", "trainer.sample_every=0")
    assert result.code == 0, result.err
    assert "2 × 128 tokens × 3 accumulated" in result.out
    folder = only_run(tmp_path)
    assert not (folder / "samples").exists()
    assert not (folder / "checkpoints" / "best.ckpt").exists()
    assert "validation" in result.out  # scored at the end all the same


def test_early_stopping_stops(command, tmp_path: Path) -> None:
    arguments = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=0"]
    result = command("train", *SMOKE, *arguments, "optim.min_lr=0", "trainer.max_steps=50")
    assert result.code == 0, result.err
    assert int(metrics(only_run(tmp_path))[-1]["step"]) == 4


def test_a_diverged_run_ends_and_says_so(command, tmp_path: Path) -> None:
    wild = ["optim=sgd", "optim.lr=1e30", "optim.grad_clip=0", "trainer.sample_every=1"]
    result = command("train", *SMOKE, *wild, "trainer.log_every=4", "trainer.max_steps=20")
    assert result.code == 2 and "training diverged; take a lower optim.lr" in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    run = only_run(tmp_path)
    for path in (run / "checkpoints").iterdir():  # whatever is kept is sound
        weights = checkpoint.read_checkpoint(path)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)
    (kept,) = run.glob("not_finite_step_*.pt")
    assert str(kept.relative_to(tmp_path)) in result.err
    step = int(kept.stem.split("_")[-1])
    batches = torch.load(kept, weights_only=True)
    data = corpus_data(tmp_path)
    for part, number in enumerate(range(2 * (step - 1), 2 * step)):
        torch.testing.assert_close(batches["input"][part], data[number]["input"])
    assert "Once upon a time" in kept.with_suffix(".txt").read_text()


def corpus_data(tmp_path: Path) -> TrainingBatches:
    """The batches of the only run here."""
    run = only_run(tmp_path)
    (folder,) = (tmp_path / "corpora").iterdir()
    settings = DataConfig(**yaml.safe_load((run / "config.yaml").read_text())["data"])
    shape = BatchShape(settings.batch_size, 2)
    return TextDataModule(Corpus(folder), settings, 128, shape, 1337).train_dataloader().dataset


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """2 × 2 rows on two processes are 4 rows on one: the same losses, one run folder."""
    losses = {}
    for devices, batch in ((1, 4), (2, 2)):
        root = tmp_path / f"r{devices}"
        arguments = [
            *SMOKE, f"run_root={root}", f"corpus_root={tmp_path / 'c'}", "trainer.accelerator=cpu",
            f"trainer.devices={devices}", f"data.batch_size={batch}", "trainer=ddp",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        (folder,) = root.iterdir()
        losses[devices] = [float(r["train/loss"]) for r in metrics(folder) if r["train/loss"]]
    assert losses[1] == pytest.approx(losses[2], abs=1e-5)


def test_a_validation_that_is_no_number_ends_the_run(command, tmp_path: Path, monkeypatch) -> None:
    from gptlab.training import module

    real = module.LanguageModel.on_validation_epoch_end

    def broken(self) -> None:
        if self.trainer.global_step == 4:
            self.validation["nats"].update(float("nan"))
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(module.LanguageModel, "on_validation_epoch_end", broken)
        result = command("train", *SMOKE)
    assert result.code == 2 and "not finite at step 4" in result.err
    assert "nan" not in (only_run(tmp_path) / "metrics.csv").read_text()
    result = command("train", f"resume={only_run(tmp_path)}")
    assert result.code == 0, result.err
