"""Whole runs: their output, their files, their metrics, how they end."""

import csv
import errno
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule, TrainingBatches
from gptlab.model import checkpoint
from gptlab.training.checkpoint_io import AtomicCheckpointIO
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY, SharedRun, files_below

SMOKE = [
    *(*TINY, "profile=smoke", "trainer.max_steps=4", "data.batch_size=2"),
    *("trainer.sample_every=4", "data.valid_tokens=1000", "data.final_tokens=1000"),
]


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def only_run(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


@pytest.fixture
def smoke(train_once: Callable[..., SharedRun]) -> SharedRun:
    return train_once(*SMOKE, "num_samples=2", "model.dropout=0.2")


@pytest.mark.fast
def test_a_run_prints_its_plan_and_results_in_order(smoke: SharedRun) -> None:
    assert smoke.result.err == ""
    position = 0
    for text in (
        *("training", "model", "parameters: 1 layer, 2 heads", "data", "toy_stories-words"),
        *("steps", "passes over the data", "optimizer", "device", "32-true", "memory", "available"),
        *("time", "about", "run folder", "validation", "perplexity", "bits/byte"),
        *("nats/token (natural-log units", "best possible", "run folder", "checkpoints", "next"),
        *('python generate.py prompt="Once upon a time"', "tensorboard --logdir runs"),
    ):
        assert text in smoke.result.out[position:], f"{text} is missing or too early"
        position = smoke.result.out.index(text, position)
    for text in ("step 4: Once upon a time", "step 4/4", "tokens/s", "done in"):
        assert text in smoke.result.out, text
    printed = re.search(r"loss ([\d.]+) nats/token \(natural-log units", smoke.result.out)
    losses = [float(row["valid/loss"]) for row in read_metrics(smoke.folder) if row["valid/loss"]]
    assert float(printed[1]) == pytest.approx(min(losses), abs=2e-4)


@pytest.mark.fast
def test_a_run_folder_holds_everything_about_the_run(smoke: SharedRun) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}_toy_toy_stories", smoke.folder.name)
    names = files_below(smoke.folder)
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert name in names
    assert "samples/step_4.txt" in names and any("tfevents" in name for name in names)
    assert sorted(path.name for path in smoke.root.iterdir()) == ["corpora", "runs"]
    rows = read_metrics(smoke.folder)
    assert list(rows[0])[:3] == ["step", "tokens", "epoch"]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows if row["valid/loss"]] == [2, 4]


def test_tensorboard_shows_losses_rates_and_samples(smoke: SharedRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(smoke.folder)).Reload()
    for tag in (
        *("train/loss", "train/perplexity", "train/lr", "train/tokens_per_second"),
        *("train/tokens", "valid/loss", "valid/perplexity", "valid/best_possible"),
    ):
        assert tag in events.Tags()["scalars"]
    assert any("samples" in tag for tag in events.Tags()["tensors"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


@pytest.mark.fast
def test_only_the_seed_decides_the_bits_of_a_run(command, smoke: SharedRun, tmp_path: Path) -> None:
    settings = [*SMOKE, "num_samples=2", "model.dropout=0.2"]
    assert command("train", *settings, "run_root=same").code == 0
    assert command("train", *settings, "run_root=other", "seed=2").code == 0
    (same,), (other,) = (list((tmp_path / name).iterdir()) for name in ("same", "other"))
    losses, same_losses, other_losses = (
        [row["train/loss"] for row in read_metrics(run)] for run in (smoke.folder, same, other)
    )
    assert losses == same_losses and losses[0] != other_losses[0]
    weights, same_weights = (
        checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
        for run in (smoke.folder, same)
    )
    assert all(torch.equal(weight, same_weights[name]) for name, weight in weights.items())


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
    text = (only_run(tmp_path) / "samples" / "generated_text_epoch_2.txt").read_text(
        encoding="utf-8"
    )
    assert "[greedy]\nOnce upon a time" in text and "[sampled]\nOnce upon a time" in text
    assert float(read_metrics(only_run(tmp_path))[-1]["epoch"]) >= 2


def test_a_checkpoint_alone_is_enough_to_generate(
    command, smoke: SharedRun, tmp_path: Path
) -> None:
    content = torch.load(smoke.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 4 and content["config"]["model"]["d_model"] == 16
    assert all(name.startswith("net.") for name in content["state_dict"])
    path = shutil.copy(smoke.folder / "checkpoints" / "last.ckpt", tmp_path / "elsewhere.ckpt")
    result = command("generate", f"run={path}", "prompt=Once upon a time", "max_new_tokens=5")
    assert result.code == 0 and result.out.startswith("Once upon a time")


def test_a_checkpoint_that_cannot_be_written_keeps_the_previous_one(tmp_path, monkeypatch) -> None:
    writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"step": 1}, path)

    def no_space(_content: object, file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(UserError, match="disk is full"):
        writer.save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert files_below(tmp_path) == ["last.ckpt"]


def test_a_checkpoint_that_another_program_has_open_ends_in_one_line(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def rename(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("gptlab.training.checkpoint_io.rename", rename)
    with pytest.raises(UserError, match=r"Permission denied.*close programs that have it open"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert checkpoint.read_checkpoint(path)["step"] == 1
    assert files_below(tmp_path) == ["last.ckpt"]


def test_a_full_disk_ends_a_run_in_one_line(command, tmp_path: Path, monkeypatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gptlab.training.checkpoint_io.torch.save", no_space)
    result = command("train", *SMOKE)
    assert result.code == 2
    assert "disk is full" in result.err and "Traceback" not in result.err


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_strange_checkpoints_are_refused_and_not_executed(
    command, smoke: SharedRun, tmp_path: Path
) -> None:
    last = smoke.folder / "checkpoints" / "last.ckpt"
    good = last.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("not a checkpoint", encoding="utf-8")
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": Malicious()}, tmp_path / "malicious.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Malicious()))
    wrong = torch.load(last, weights_only=True)
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
def test_a_signal_while_sampling_keeps_the_run(
    command, tmp_path, monkeypatch, number, code
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(
        "gptlab.training.callbacks.sample_writer.SampleWriter.write_samples",
        lambda *_: signal.raise_signal(number),
    )
    result = command("train", *SMOKE, "trainer.sample_every=2", "trainer.max_steps=500")
    assert result.code == code
    assert "stopped after step" in result.err and "Traceback" not in result.err
    stopped = int(re.search(r"after step (\d+)", result.err)[1])
    content = checkpoint.read_checkpoint(only_run(tmp_path) / "checkpoints" / "last.ckpt")
    assert content["global_step"] == stopped <= 4
    assert signal.getsignal(signal.SIGINT) is before


def test_no_model_beats_the_best_possible_loss(command) -> None:
    """A short training ends above the grammar's entropy, and far below chance."""
    result = command(
        "train", "model.n_layer=1", "model.d_model=32", "trainer.max_steps=150", "optim.lr=1e-2",
        "data.max_samples=2000", "trainer.sample_every=0", "data.batch_size=8",
        "trainer.eval_every=0", "data.final_tokens=20000", "logger=none",
    )  # fmt: skip
    assert result.code == 0, result.err
    ratio = float(re.search(r"this model has ([\d.]+) times that", result.out)[1])
    assert 1.0 < ratio < 3.5


def test_a_model_that_sees_the_future_beats_the_best_possible_loss(command) -> None:
    """The bound can be violated, so the test above can fail."""
    result = command(
        "train", "model.n_layer=1", "model.d_model=64", "model.init_std=0.08", "optim.lr=1e-2",
        "model.position=rotary", "trainer.max_steps=150", "trainer.sample_every=0",
        "data.max_samples=2000", "data.batch_size=8", "model.let_attention_see_the_future=true",
        "trainer.eval_every=0", "data.final_tokens=20000", "logger=none",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "WARNING    attention sees the future" in result.out
    assert float(re.search(r"this model has ([\d.]+) times that", result.out)[1]) < 1.0


def test_clipping_bounds_the_step_and_logs_the_unclipped_norm(command, tmp_path: Path) -> None:
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
    weights, norms = [], []
    for clip in ("0.01", "0"):
        (folder,) = (tmp_path / f"c{clip}").iterdir()
        norms.append(float(read_metrics(folder)[0]["train/gradient_norm"]))
        last = checkpoint.read_checkpoint(folder / "checkpoints" / "last.ckpt")
        weights.append(last["state_dict"])
    assert norms[0] == norms[1] > 0.1
    names = [name for name in weights[0] if name != "net.head.weight"]  # tied to the embedding
    steps = {name: weights[0][name] - weights[1][name] for name in names}
    # Same gradient g, so the weights differ by (1 - 0.01 / |g|) times g: nearly all of it.
    size = math.sqrt(sum(float(step.square().sum()) for step in steps.values()))
    assert size == pytest.approx(norms[0] - 0.01, rel=1e-3)


def test_the_logged_learning_rate_is_the_one_used(command, tmp_path: Path) -> None:
    arguments = ["optim.warmup_steps=4", "optim.lr=0.4", "optim.schedule=constant"]
    assert command("train", *SMOKE, *arguments).code == 0
    rates = [float(r["train/lr"]) for r in read_metrics(only_run(tmp_path)) if r["train/lr"]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_tokens_per_step_sets_accumulation_and_intervals_can_be_zero(
    command, tmp_path: Path
) -> None:
    arguments = ["trainer.accumulate_grad_batches=1", "trainer.tokens_per_step=768"]
    result = command("train", *SMOKE, *arguments, "trainer.eval_every=0", "trainer.sample_every=0")
    assert result.code == 0, result.err
    assert "2 × 128 tokens × 3 accumulated" in result.out
    folder = only_run(tmp_path)
    assert not (folder / "samples").exists()
    assert not (folder / "checkpoints" / "best.ckpt").exists()
    assert "validation" in result.out  # the final evaluation takes place in any case


def test_early_stopping_ends_a_run(command, tmp_path: Path) -> None:
    arguments = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=0"]
    result = command("train", *SMOKE, *arguments, "optim.min_lr=0", "trainer.max_steps=50")
    assert result.code == 0, result.err
    assert int(read_metrics(only_run(tmp_path))[-1]["step"]) == 4


def test_a_diverged_run_ends_with_sound_checkpoints_and_its_batches(
    command, tmp_path: Path
) -> None:
    wild = ["optim=sgd", "optim.lr=1e30", "optim.grad_clip=0", "trainer.sample_every=1"]
    result = command("train", *SMOKE, *wild, "trainer.log_every=4", "trainer.max_steps=20")
    assert result.code == 2 and "training diverged; use a lower optim.lr" in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    run = only_run(tmp_path)
    for path in (run / "checkpoints").iterdir():  # every kept checkpoint is finite
        weights = checkpoint.read_checkpoint(path)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)
    (saved,) = run.glob("not_finite_step_*.pt")
    assert str(saved.relative_to(tmp_path)) in result.err
    step = int(saved.stem.split("_")[-1])
    batches = torch.load(saved, weights_only=True)
    data = corpus_data(tmp_path)
    for part, number in enumerate(range(2 * (step - 1), 2 * step)):
        torch.testing.assert_close(batches["input"][part], data[number]["input"])
    assert "Once upon a time" in saved.with_suffix(".txt").read_text(encoding="utf-8")


def corpus_data(tmp_path: Path) -> TrainingBatches:
    """The training batches of the only run here."""
    run = only_run(tmp_path)
    (folder,) = (tmp_path / "corpora").iterdir()
    settings = DataConfig(
        **yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    )
    shape = BatchShape(settings.batch_size, 2)
    return TextDataModule(Corpus(folder), settings, 128, shape, 1337).train_dataloader().dataset


def test_two_processes_train_as_one(command, tmp_path: Path) -> None:
    """2 × 2 rows on two processes are 4 rows on one: the same losses, one run folder.

    Even where an image and an interactive job have left ranks in the environment.
    """
    one = ["run_root=one", "data.batch_size=4"]
    assert command("train", *SMOKE, *one).code == 0
    two = ["run_root=two", "data.batch_size=2", "trainer.accelerator=cpu", "trainer.devices=2"]
    inherited = {"LOCAL_RANK": "0", "RANK": "1", "SLURM_NTASKS": "8"}
    done = subprocess.run(
        [sys.executable, "-m", "gptlab", "train", *SMOKE, "trainer=ddp", *two],
        cwd=tmp_path, capture_output=True, text=True,
        encoding="utf-8", env={**os.environ, **inherited, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "python -m gptlab generate" in done.stdout
    (single,), (double,) = (list((tmp_path / name).iterdir()) for name in ("one", "two"))
    losses, double_losses = (
        [float(row["train/loss"]) for row in read_metrics(run) if row["train/loss"]]
        for run in (single, double)
    )
    assert losses == pytest.approx(double_losses, abs=1e-5)


def test_a_validation_loss_that_is_not_finite_ends_the_run(
    command, tmp_path: Path, monkeypatch
) -> None:
    from gptlab.training import module

    real = module.LanguageModel.on_validation_epoch_end

    def broken(self) -> None:
        if self.trainer.global_step == 4:
            self.validation_sums["nats"].update(float("nan"))
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(module.LanguageModel, "on_validation_epoch_end", broken)
        result = command("train", *SMOKE)
    assert result.code == 2 and "not finite at step 4" in result.err
    assert "nan" not in (only_run(tmp_path) / "metrics.csv").read_text(encoding="utf-8")
    result = command("train", f"resume={only_run(tmp_path)}")
    assert result.code == 0, result.err
