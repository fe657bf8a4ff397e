"""A run that was stopped goes on as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gptlab.model import checkpoint
from gptlab.utils import run_dir
from tests.conftest import ROOT, TINY
from tests.faults.callbacks import Accident
from tests.faults.compare import assert_same, metrics, only

SMALL = [
    *TINY,
    *("model.dropout=0.1", "trainer.max_steps=12", "trainer.eval_every=4", "trainer.log_every=3"),
    *("trainer.accumulate_grad_batches=2", "data.batch_size=4", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=3", "trainer.sample_every=4", "max_new_tokens=5"),
    *("data.max_samples=60", "data.final_tokens=400"),
]
STOP = "+callbacks.stop._target_=tests.faults.callbacks.Stop"


def stop(step: int, **settings: object) -> list[str]:
    chosen = {"step": step, **settings}
    return [STOP, *(f"+callbacks.stop.{name}={value}" for name, value in chosen.items())]


@pytest.fixture
def go_on(command):
    """Resumes as a person would: later than the second in which the run was stopped.

    TensorBoard reads the files of a run in the order of the seconds in their names.
    """

    def resume(*arguments: str):
        time.sleep(1.1)
        return command("train", *(arguments or ("resume=latest", "callbacks=none")))

    return resume


@pytest.fixture
def whole(command, tmp_path: Path):
    """Trains without an accident; returns the run's folder."""

    def train(*arguments: str) -> Path:
        result = command("train", *SMALL, *arguments, "run_root=whole")
        assert result.code == 0, result.err
        return only(tmp_path / "whole")

    return train


def accident(command, *arguments: str) -> None:
    with pytest.raises(Accident):
        command("train", *SMALL, *arguments)


@pytest.mark.parametrize(
    ("moment", "settings"),
    [
        ({"step": 7, "part": 1}, []),
        ({"step": 0}, ["optim=sgd", "optim.schedule=wsd", "trainer.log_every=5"]),
        ({"step": 2}, ["trainer.log_every=1", "eval_before=[perplexity]"]),  # from the start again
        ({"step": 4, "when": "validation"}, ["optim=adam", "data.batching=random"]),
        ({"step": 11, "part": 1}, ["data.num_workers=1", "trainer.checkpoint_every=5"]),
    ],
)
def test_the_rest_is_what_it_would_have_been(
    command, go_on, tmp_path, whole, moment, settings
) -> None:
    accident(command, *settings, *stop(**moment))
    run = only(tmp_path / "runs")
    result = go_on()
    assert result.code == 0, result.err
    assert only(tmp_path / "runs") == run
    assert_same(run, whole(*settings))


@pytest.mark.parametrize("times", [3])
def test_stopped_again_and_again(command, go_on, tmp_path: Path, whole, times: int) -> None:
    accident(command, *stop(2))
    for step in range(4, 4 + 3 * times, 3):
        with pytest.raises(Accident):
            go_on("resume=latest", *stop(step))
    assert go_on().code == 0
    assert_same(only(tmp_path / "runs"), whole())


@pytest.mark.parametrize(
    ("number", "moment", "kept"),
    [
        (signal.SIGINT, {"step": 5}, 6),
        (signal.SIGTERM, {"step": 7, "part": 1}, 8),  # before the samples and validation of step 8
        (signal.SIGTERM, {"step": 8, "when": "validation"}, 8),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(
    command, go_on, tmp_path: Path, whole, number: int, moment: dict, kept: int
) -> None:
    # With a checkpoint at each step the one before is already there when the signal comes.
    often = ["trainer.checkpoint_every=1"]
    result = command("train", *SMALL, *often, *stop(**moment, signal=int(number)))
    assert result.code == 128 + number
    run = only(tmp_path / "runs")
    resume_command = f"python train.py resume={run.relative_to(tmp_path)}"
    assert f"stopped after step {kept}; resume with  {resume_command}" in result.err
    assert checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == kept
    assert not (run / "summary.json").exists()
    assert go_on(f"resume={run}", "callbacks=none").code == 0
    assert_same(run, whole(*often))


def test_a_finished_run_says_so(command, tmp_path: Path) -> None:
    assert command("train", *SMALL).code == 0
    run = only(tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = command("train", f"resume={run.name}")
    assert result.code == 0 and "is finished: there is nothing to resume" in result.out
    result = command("train", "resume=latest")
    assert result.code == 0 and "every run in runs is finished" in result.out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_finished_run_can_be_made_longer(command, tmp_path: Path) -> None:
    assert command("train", *SMALL, "optim.schedule=constant").code == 0
    run = only(tmp_path / "runs")
    result = command("train", f"resume={run}", "trainer.max_steps=16")
    assert result.code == 0, result.err
    assert "resuming after step 12" in result.out
    steps = [int(row["step"]) for row in metrics(run)]
    assert steps == sorted(steps) and steps[-1] == 16
    assert json.loads((run / "summary.json").read_text())["steps"] == 16
    result = command("train", f"resume={run}", "trainer.max_steps=16")
    assert result.code == 0 and "has 16 steps already" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=latest", "seed=3"], "seed=3: a resumed run keeps its settings"),
        (["resume=latest", "model.n_layer=2"], "init_from=runs/"),
        (["resume=latest", "experiment=toy_best"], "experiment=toy_best: a resumed run"),
        (["resume=nowhere"], "resume=nowhere: no such run folder"),
        (["resume=latest", "run_root=empty"], "no run in empty"),
        (["resume=latest"], "callbacks.stop: is not a choice that gptlab ships"),
        (["resume=corpora"], "has no readable checkpoint"),
    ],
)
def test_mistakes_when_resuming(command, tmp_path: Path, arguments, words: str) -> None:
    accident(command, *stop(5))
    kept = (only(tmp_path / "runs") / "checkpoints" / "last.ckpt").read_bytes()
    result = command("train", *arguments)
    assert result.code == 2
    assert words in result.err and result.err.count("\n") == 1
    assert (only(tmp_path / "runs") / "checkpoints" / "last.ckpt").read_bytes() == kept


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    command, go_on, tmp_path: Path, whole, damage: str
) -> None:
    accident(command, *stop(10))
    run = only(tmp_path / "runs")
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.unlink()  # its other names must stay whole
    if damage != "missing":
        cut = {"flipped": len(content), "cut": len(content) // 3, "empty": 0}[damage]
        last.write_bytes(content[:cut])
    result = go_on()
    assert result.code == 0, result.err
    assert ("last.ckpt" in result.err) == (damage != "missing")
    assert_same(run, whole())


def test_damaged_twice_while_its_end_was_measured(command, go_on, tmp_path: Path, whole) -> None:
    """Only best.ckpt is left, of the last step: there is nothing to train, and much to tell."""
    assert command("train", *SMALL).code == 0
    run = only(tmp_path / "runs")
    (run / "summary.json").unlink()
    assert checkpoint.load_checkpoint(run / "checkpoints" / "best.ckpt").step == 12
    for name in ("last", "previous"):
        path = run / "checkpoints" / f"{name}.ckpt"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:100])
    result = go_on()
    assert result.code == 0, result.err
    assert_same(run, whole())


def test_a_text_that_has_changed_is_refused(command, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Once upon a time, a cat. " * 200)
    own = ["data=text", "data.path=own.txt", "model.context_length=16", "prompt=Once"]
    accident(command, *own, *stop(5))
    (tmp_path / "own.txt").write_text("Once upon a time, a dog. " * 200)
    corpora = (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    result = command("train", "resume=latest", "callbacks=none")
    assert result.code == 2 and "its text has changed" in result.err
    again = command("train", "resume=latest", "callbacks=none", f"corpus_root={corpora}")
    assert again.code == 0, again.err  # on the tokens that it began with


def test_a_run_in_training_is_not_resumed_beside_itself(command, tmp_path: Path) -> None:
    accident(command, *stop(5))
    run = only(tmp_path / "runs")
    with run_dir.lock_run_dir(run):
        result = command("train", "resume=latest", "callbacks=none")
    assert result.code == 2 and "another process is training this run" in result.err
    assert command("train", "resume=latest", "callbacks=none").code == 0


def test_weights_of_another_run_begin_a_new_one(command, tmp_path: Path) -> None:
    assert command("train", *SMALL).code == 0
    first = only(tmp_path / "runs")
    result = command(
        "train", *SMALL, f"init_from={first}", "run_root=second", "optim.lr=0", "optim.min_lr=0"
    )
    assert result.code == 0, result.err
    ours, theirs = (
        checkpoint.load_checkpoint(path / "checkpoints" / "best.ckpt").net.state_dict()
        for path in (first, only(tmp_path / "second"))
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    result = command("train", *SMALL, f"init_from={first}", "model.n_layer=2", "run_root=third")
    assert result.code == 2 and "its model has n_layer=1" in result.err
    result = command("train", *SMALL, f"init_from={first}", "tokenizer=char", "run_root=third")
    assert result.code == 2 and "keeps its vocabulary, words" in result.err
    assert not (tmp_path / "third").exists()


def test_a_run_appears_with_its_first_checkpoint_in_it(command, tmp_path: Path) -> None:
    accident(command, *stop(0))
    run = only(tmp_path / "runs")
    assert checkpoint.load_checkpoint(run / "checkpoints" / "last.ckpt").step == 0
    assert (run / "config.yaml").exists() and (run / "metrics.csv").exists()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_two_processes_go_on_together(tmp_path: Path) -> None:
    """Distributed data parallel, killed and resumed."""
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]

    def train(*arguments: str) -> int:
        typed = [sys.executable, str(ROOT / "train.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(typed, cwd=tmp_path, env=environment, timeout=300).returncode

    assert train(*SMALL, *devices, "run_root=whole") == 0
    assert train(*SMALL, *devices, *stop(7, part=1, signal=9)) != 0
    assert train("resume=latest", "callbacks=none") == 0
    assert_same(only(tmp_path / "runs"), only(tmp_path / "whole"))


def test_a_sweep_goes_on_where_it_was_stopped(command, go_on, tmp_path: Path) -> None:
    swept = ["-m", "model.n_head=2,3,4", "logger=none"]
    result = command("train", *SMALL, *swept, "run_root=whole")
    assert result.code == 2  # three heads do not divide the width
    # An accident in the last job. The first is done, the second has failed.
    script = (
        "import os, sys; from lightning.pytorch import Trainer\n"
        "real = Trainer.fit\n"
        "def fit(self, module, **rest):\n"
        "    if module.net.config.n_head == 4:\n"
        "        self.callbacks += [__import__('tests.faults.callbacks').faults.callbacks.Stop("
        "step=7, signal=9)]\n"
        "    return real(self, module, **rest)\n"
        "Trainer.fit = fit\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "import train; train.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    typed = [sys.executable, "-c", script, *SMALL, *swept]
    killed = subprocess.run(typed, cwd=tmp_path, env=environment, capture_output=True, timeout=200)
    assert killed.returncode == -9, killed.stderr
    sweep = only(tmp_path / "runs")
    first = next(sweep.glob("0,*")) / "summary.json"
    untouched = first.stat().st_mtime_ns
    result = go_on("resume=latest")
    assert result.code == 2 and "ranking, by validation loss" in result.out, result.err
    assert first.stat().st_mtime_ns == untouched
    names = [path.name for path in sorted(sweep.iterdir())]
    assert names == [path.name for path in sorted(only(tmp_path / "whole").iterdir())]
    for job in ("0,model.n_head=2", "2,model.n_head=4"):
        ours, theirs = sweep / job, only(tmp_path / "whole") / job
        assert metrics(ours) == metrics(theirs)
        a, b = (
            checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (ours, theirs)
        )
        assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in b["state_dict"])
    assert go_on("resume=latest").out.startswith("every run in runs is finished")


def test_latest_passes_by_what_is_in_training(command, tmp_path: Path) -> None:
    accident(command, *stop(5))
    stopped = only(tmp_path / "runs")
    time.sleep(1.1)
    accident(command, *stop(5))
    (other,) = set((tmp_path / "runs").iterdir()) - {stopped}
    newborn = run_dir.staging_dir(other.with_name("newborn"))  # not yet a run
    shutil.copytree(other, newborn)
    with run_dir.lock_run_dir(other):
        assert command("train", "resume=latest", "callbacks=none").code == 0
    assert run_dir.is_finished(stopped) and not run_dir.is_finished(other)
