"""A stopped run, resumed, ends exactly as a run that was never stopped."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.schema import OptimConfig
from gptlab.model import checkpoint
from gptlab.training.optim import learning_rate
from gptlab.training.resume import restore_group
from gptlab.training.run_plan import resolve_warmup
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY, SharedRun, posix_only
from tests.faults.callbacks import SimulatedCrash, StopAtStep
from tests.faults.compare import assert_identical_runs, only_run, read_metrics

SMALL = [
    *TINY,
    *("model.dropout=0.1", "trainer.max_steps=12", "trainer.eval_every=4", "trainer.log_every=3"),
    *("trainer.accumulate_grad_batches=2", "data.batch_size=4", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=3", "trainer.sample_every=4", "max_new_tokens=5"),
    *("data.max_samples=60", "data.final_tokens=400"),
]
RESUME = ["resume=latest", "callbacks=none"]


def stop(step: int, **settings: object) -> list[str]:
    """Arguments that stop a run during the step after `step`."""
    chosen = {"_target_": "tests.faults.callbacks.StopAtStep", "step": step, **settings}
    return [f"+callbacks.stop.{name}={value}" for name, value in chosen.items()]


def crash(command: Callable, *arguments: str) -> None:
    with pytest.raises(SimulatedCrash):
        command("train", *SMALL, *arguments)


@pytest.fixture
def crashed(command, train_once: Callable[..., SharedRun], tmp_path: Path) -> Path:
    """A run that crashed during step 6, with its last checkpoint from step 3."""
    return train_once(*SMALL, *stop(5)).copy(tmp_path)


@pytest.fixture
def finished(command, train_once: Callable[..., SharedRun], tmp_path: Path) -> Path:
    return train_once(*SMALL).copy(tmp_path)


@pytest.mark.fast
def test_a_crashed_run_resumes_to_the_same_bits(command, crashed: Path, train_once) -> None:
    result = command("train", *RESUME)
    assert result.code == 0 and "resuming after step 3" in result.out, result.err
    assert_identical_runs(crashed, train_once(*SMALL).folder)


@pytest.mark.parametrize(
    ("moment", "settings"),
    [
        ({"step": 7, "part": 1}, ["trainer.max_steps=8"]),  # within a step
        ({"step": 0}, ["optim=sgd", "optim.schedule=wsd", "trainer.log_every=5"]),
        ({"step": 2}, ["trainer.log_every=1", "eval_before=[perplexity]"]),  # from step 0 again
        ({"step": 4, "when": "validation"}, ["optim=adam", "data.batching=random"]),
        ({"step": 7, "part": 1}, ["data.num_workers=1", "trainer.checkpoint_every=5"]),
    ],
)
def test_a_run_stopped_at_any_moment_resumes_to_the_same_bits(
    command, train_once, tmp_path: Path, moment: dict, settings: list[str]
) -> None:
    crash(command, *settings, *stop(**moment))
    run = only_run(tmp_path / "runs")
    result = command("train", *RESUME)
    assert result.code == 0, result.err
    assert only_run(tmp_path / "runs") == run
    assert_identical_runs(run, train_once(*SMALL, *settings).folder)


def test_a_run_stopped_three_times_resumes_to_the_same_bits(
    command, crashed: Path, train_once
) -> None:
    for step in (7, 10):
        with pytest.raises(SimulatedCrash):
            command("train", "resume=latest", *stop(step))
    assert command("train", *RESUME).code == 0
    assert_identical_runs(crashed, train_once(*SMALL).folder)


@pytest.mark.parametrize(
    ("number", "moment", "last_step"),
    [
        (signal.SIGINT, {"step": 5}, 6),
        (signal.SIGTERM, {"step": 7, "part": 1}, 8),  # before the samples and validation of step 8
        (signal.SIGTERM, {"step": 8, "when": "validation"}, 8),
    ],
)
def test_a_signal_saves_a_checkpoint_and_prints_how_to_resume(
    command, train_once, tmp_path: Path, number: int, moment: dict, last_step: int
) -> None:
    # Checkpoint at each step, so that one of the previous step exists when the signal arrives.
    settings = ["trainer.checkpoint_every=1"]
    result = command("train", *SMALL, *settings, *stop(**moment, signal=int(number)))
    assert result.code == 128 + number
    run = only_run(tmp_path / "runs")
    resume = f"python train.py resume={run.relative_to(tmp_path)}"
    assert f"stopped after step {last_step}; resume with  {resume}" in result.err
    last = checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert last["global_step"] == last_step
    assert not (run / "summary.json").exists()
    assert command("train", f"resume={run}", "callbacks=none").code == 0
    assert_identical_runs(run, train_once(*SMALL, *settings).folder)


def test_a_finished_run_is_not_resumed(command, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = command("train", f"resume={finished.name}")
    assert result.code == 0 and "is finished: nothing to resume" in result.out
    result = command("train", "resume=latest")
    assert result.code == 0 and "every run in runs is finished" in result.out
    for run in ("latest", finished):  # a setting that would be ignored
        result = command("train", f"resume={run}", "optim.lr=3")
        assert result.code == 2 and "optim.lr=3: a resumed run keeps its settings" in result.err
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_a_finished_run_can_be_extended(command, finished: Path) -> None:
    result = command("train", f"resume={finished}", "trainer.max_steps=16")
    assert result.code == 0, result.err
    assert "resuming after step 12" in result.out
    steps = [int(row["step"]) for row in read_metrics(finished)]
    assert steps == sorted(steps) and steps[-1] == 16
    assert json.loads((finished / "summary.json").read_text(encoding="utf-8"))["steps"] == 16
    result = command("train", f"resume={finished}", "trainer.max_steps=16")
    assert result.code == 0 and "has 16 steps already" in result.out


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_every_new_step_of_an_extended_run_has_the_new_schedules_rate(
    command, train_once, tmp_path: Path, schedule: str
) -> None:
    """Warmup and intervals that were not typed follow from the new number of steps, too."""
    derived = ["optim.warmup_steps=null", "trainer.eval_every=null", "trainer.sample_every=null"]
    run = train_once(*SMALL, *derived, f"optim.schedule={schedule}").copy(tmp_path)
    extension = ["trainer.max_steps=30", "trainer.log_every=1"]
    result = command("train", "resume=latest", *extension)
    assert result.code == 0, result.err
    optim = OptimConfig(
        **yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["optim"]
    )
    rows = [row for row in read_metrics(run) if int(row["step"]) > 12]
    rates = {int(row["step"]): float(row["train/lr"]) for row in rows if row["train/lr"]}
    assert list(rates) == list(range(13, 31))
    expected = [learning_rate(step - 1, 30, resolve_warmup(optim, 30)) for step in rates]
    assert list(rates.values()) == pytest.approx(expected, rel=1e-12)
    assert [int(row["step"]) for row in rows if row["valid/loss"]] == [18, 24, 30]


def test_a_stopped_extension_is_resumed_without_typing_its_steps_again(
    command, finished: Path
) -> None:
    older = finished.with_name("older")
    shutil.copytree(finished, older)
    (older / "summary.json").unlink()  # stopped: resume=latest alone would take it
    os.utime(older / "config.yaml", (1, 1))
    arguments = ["resume=latest", "trainer.max_steps=16", *stop(13, signal=2)]
    assert command("train", *arguments).code == 130
    assert command("train", *RESUME).code == 0
    assert json.loads((finished / "summary.json").read_text(encoding="utf-8"))["steps"] == 16
    assert not (older / "summary.json").exists()


def test_fewer_steps_than_a_run_has_are_refused_at_once(command, crashed: Path) -> None:
    content = (crashed / "checkpoints" / "last.ckpt").read_bytes()
    result = command("train", *RESUME, "trainer.max_steps=2")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "trainer.max_steps=2: " in result.err and "has 3 steps already" in result.err
    assert (crashed / "checkpoints" / "last.ckpt").read_bytes() == content


def test_a_run_can_be_resumed_on_a_machine_without_its_gpu(command, crashed: Path) -> None:
    last = crashed / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["gptlab"]["resolved"] |= {
        **{"trainer.accelerator": "mps", "trainer.precision": "16-mixed"},
        "trainer.compile": "model",
    }
    last.unlink()
    torch.save(content, last)
    result = command("train", *RESUME)
    assert result.code == 2 and "trainer.accelerator=mps: torch finds no such device" in result.err
    result = command("train", *RESUME, "trainer.accelerator=auto")
    assert result.code == 0, result.err
    assert re.search(r"device +CPU, \d+ threads?, 32-true$", result.out, re.MULTILINE)


def test_the_printed_commands_find_a_run_that_was_moved(command, crashed: Path) -> None:
    moved = Path(shutil.copytree(crashed, "an other place/moved"))
    result = command("train", f"resume={moved}", "callbacks=none")
    assert result.code == 0, result.err
    generate, board = (
        shlex.split(line) for line in result.out.partition("next\n")[2].splitlines()[:2]
    )
    assert board[2] == str(moved.parent)
    result = command("generate", *generate[2:], "max_new_tokens=2")
    assert result.code == 0 and str(moved) in result.err
    run = crashed.with_name("newer")
    shutil.copytree(crashed, run)  # started later, and not finished
    assert command("train", f"resume={crashed}", "callbacks=none").out.count(f"run={crashed}") == 1


def test_a_wrong_resume_command_is_one_line_and_changes_nothing(command, crashed: Path) -> None:
    content = (crashed / "checkpoints" / "last.ckpt").read_bytes()
    for arguments, message in (
        (["resume=latest", "seed=3"], "seed=3: a resumed run keeps its settings"),
        (["resume=latest", "model.n_layer=2"], "leave resume= out"),
        (["resume=latest", "optim.lr=1"], "init_from=runs/"),
        (["resume=latest", "experiment=toy_best"], "experiment=toy_best: a resumed run"),
        (["resume=nowhere"], "resume=nowhere: no such run folder"),
        (["resume=latest", "run_root=empty"], "no run in empty"),
        (["resume=latest"], "callbacks.stop: is not a choice that gptlab ships"),
        (["resume=corpora"], "has no readable checkpoint"),
    ):
        result = command("train", *arguments)
        assert result.code == 2, arguments
        assert message in result.err and result.err.count("\n") == 1, result.err
    assert (crashed / "checkpoints" / "last.ckpt").read_bytes() == content


def test_shipped_callbacks_and_loggers_are_resumed_without_typing_them(
    command, tmp_path: Path
) -> None:
    """With a number that was typed for one of them."""
    typed = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    settings = [
        "optim.lr=0",
        "optim.min_lr=0",
        "trainer.eval_every=2",
        "trainer.checkpoint_every=2",
    ]
    result = command("train", *SMALL, *typed, *settings, *stop(3, signal=2))
    assert result.code == 130, result.err
    run = only_run(tmp_path / "runs")
    for path in (run / "checkpoints").glob("*.ckpt"):  # as if only early_stopping had been chosen
        content = torch.load(path, weights_only=True)
        content["config"]["callbacks"].pop("stop", None)  # two names may be one file
        torch.save(content, path)
    result = command("train", "resume=latest")
    assert result.code == 0, result.err
    # Validation at step 4 is no better than at step 2.
    assert int(read_metrics(run)[-1]["step"]) == 4
    assert list(run.glob("events*"))


def test_only_shipped_choices_and_numbers_are_restored(tmp_path: Path) -> None:
    shipped = yaml.safe_load(
        (ROOT / "conf" / "callbacks" / "early_stopping.yaml").read_text(encoding="utf-8")
    )
    assert restore_group("callbacks", shipped, tmp_path) == shipped
    settings = shipped["early_stopping"]
    changed = {"early_stopping": settings | {"patience": 9}}
    assert restore_group("callbacks", changed, tmp_path) == changed
    for part in (
        settings | {"_target_": "os.system"},
        settings | {"monitor": "${oc.env:HOME}"},
        settings | {"monitor": 5},
        settings | {"_args_": [1]},
        {key: value for key, value in settings.items() if key != "monitor"},
    ):
        with pytest.raises(UserError, match="early_stopping: is not a choice that gptlab ships"):
            restore_group("callbacks", {"early_stopping": part}, tmp_path)
    with pytest.raises(UserError, match="mine: is not a choice"):
        restore_group("callbacks", {"mine": settings}, tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(
    command, train_once, tmp_path: Path, damage: str
) -> None:
    run = train_once(*SMALL, *stop(7)).copy(tmp_path)  # with checkpoints of steps 3 and 6
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.unlink()  # not through it: best.ckpt may be a link to the same file
    if damage != "missing":
        size = {"flipped": len(content), "cut": len(content) // 3, "empty": 0}[damage]
        last.write_bytes(content[:size])
    result = command("train", *RESUME)
    assert result.code == 0 and "resuming after step" in result.out, result.err
    assert ("last.ckpt" in result.err) == (damage != "missing")
    assert_identical_runs(run, train_once(*SMALL).folder)


def test_a_run_with_only_its_best_checkpoint_left_is_evaluated_again(
    command, finished: Path, train_once
) -> None:
    """best.ckpt is of the last step: there is nothing to train."""
    (finished / "summary.json").unlink()
    assert checkpoint.load_checkpoint(finished / "checkpoints" / "best.ckpt").step == 12
    for name in ("last", "previous"):
        path = finished / "checkpoints" / f"{name}.ckpt"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:100])
    result = command("train", *RESUME)
    assert result.code == 0, result.err
    assert_identical_runs(finished, train_once(*SMALL).folder)


def test_a_changed_text_is_refused_but_its_stored_tokens_can_be_used(
    command, tmp_path: Path
) -> None:
    (tmp_path / "own.txt").write_text("Once upon a time, a cat. " * 200, encoding="utf-8")
    own = ["data=text", "data.path=own.txt", "model.context_length=16", "prompt=Once"]
    crash(command, *own, *stop(5))
    (tmp_path / "own.txt").write_text("Once upon a time, a dog. " * 200, encoding="utf-8")
    corpora = (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    result = command("train", *RESUME)
    assert result.code == 2 and "its text has changed" in result.err
    result = command("train", *RESUME, f"corpus_root={corpora}")
    assert result.code == 0, result.err


def test_a_run_that_another_process_is_training_is_not_resumed(command, crashed: Path) -> None:
    with run_dir.lock_run_dir(crashed):
        result = command("train", *RESUME)
    assert result.code == 2 and "another process is training this run" in result.err


def test_latest_skips_runs_that_are_being_trained(command, crashed: Path) -> None:
    other = crashed.with_name("other")
    shutil.copytree(crashed, other)
    os.utime(other / "config.yaml")  # started later
    staging = run_dir.staging_dir(other.with_name("staged"))  # not visible yet
    shutil.copytree(other, staging)
    with run_dir.lock_run_dir(other):
        assert command("train", *RESUME).code == 0
    assert run_dir.is_finished(crashed) and not run_dir.is_finished(other)


def test_a_new_run_can_start_from_the_weights_of_another(
    command, finished: Path, tmp_path: Path
) -> None:
    init = [*SMALL, f"init_from={finished}"]
    frozen = ["run_root=second", "optim.lr=0", "optim.min_lr=0", "trainer.eval_every=12"]
    result = command("train", *init, *frozen)
    assert result.code == 0, result.err
    first, second = (
        checkpoint.load_checkpoint(run / "checkpoints" / "best.ckpt").net.state_dict()
        for run in (finished, only_run(tmp_path / "second"))
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    result = command("train", *init, "model.n_layer=2", "run_root=third")
    assert result.code == 2 and "its model has n_layer=1" in result.err
    result = command("train", *init, "tokenizer=char", "run_root=third")
    assert result.code == 2 and "keeps its vocabulary, words" in result.err
    assert not (tmp_path / "third").exists()


def test_a_run_folder_appears_together_with_its_first_checkpoint(train_once) -> None:
    run = train_once(*SMALL, *stop(0)).folder
    assert checkpoint.load_checkpoint(run / "checkpoints" / "last.ckpt").step == 0
    assert (run / "config.yaml").exists() and (run / "metrics.csv").exists()
    assert [path.name for path in run.parent.iterdir()] == [run.name]  # no hidden folder either


@pytest.mark.slow
def test_two_killed_processes_resume_together_to_the_same_bits(tmp_path: Path) -> None:
    """Distributed data parallel."""
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]

    def train(*arguments: str) -> int:
        typed = [sys.executable, str(ROOT / "train.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(typed, cwd=tmp_path, env=environment, timeout=300).returncode

    assert train(*SMALL, *devices, "run_root=whole") == 0
    assert train(*SMALL, *devices, *stop(7, part=1, signal=9)) != 0
    assert train(*RESUME) == 0
    assert_identical_runs(only_run(tmp_path / "runs"), only_run(tmp_path / "whole"))


@posix_only
def test_a_killed_sweep_resumes_with_its_unfinished_job(command, tmp_path: Path) -> None:
    swept = ["-m", "model.n_head=2,3,4", "logger=none", "trainer.max_steps=6"]
    result = command("train", *SMALL, *swept, "run_root=whole")
    assert result.code == 2  # three heads do not divide the width
    child = os.fork()
    if not child:
        kill_training_with_four_heads()
        with contextlib.suppress(BaseException):
            command("train", *SMALL, *swept)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    sweep = only_run(tmp_path / "runs")
    first_summary = next(sweep.glob("0,*")) / "summary.json"
    modified = first_summary.stat().st_mtime_ns
    result = command("train", "resume=latest")
    assert result.code == 2 and "ranking, by validation loss" in result.out, result.err
    assert first_summary.stat().st_mtime_ns == modified
    whole = only_run(tmp_path / "whole")
    assert [p.name for p in sorted(sweep.iterdir())] == [p.name for p in sorted(whole.iterdir())]
    for job in ("0,model.n_head=2", "2,model.n_head=4"):
        assert_identical_runs(sweep / job, whole / job)
    assert command("train", "resume=latest").out.startswith("every run in runs is finished")


def kill_training_with_four_heads() -> None:
    """Make this process kill itself during step 5 of such a model."""
    from lightning.pytorch import Trainer

    fit = Trainer.fit

    def fit_until_killed(self, module, **arguments):
        if module.net.config.n_head == 4:
            self.callbacks += [StopAtStep(step=4, signal=signal.SIGKILL)]
        return fit(self, module, **arguments)

    Trainer.fit = fit_until_killed
