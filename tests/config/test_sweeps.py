"""Sweeps: independent jobs, failures listed, the other jobs ranked."""

import csv
import json
import math
from datetime import datetime
from pathlib import Path

import pytest

from gptlab.config import sweeps
from gptlab.config.keys import config_groups
from gptlab.report import sweep_ranking as ranking
from gptlab.utils import run_dir
from tests.conftest import TINY

SMOKE = [*TINY, "profile=smoke", "data.max_samples=100", "logger=none"]


def sweep_folder(tmp_path: Path) -> Path:
    (sweep,) = (tmp_path / "runs").glob("*_sweep")
    return sweep


def test_a_sweep_ends_with_a_ranking_of_its_runs(command, tmp_path: Path) -> None:
    result = command("train", "-m", *SMOKE, "model.n_layer=1,2", "model.n_head=2,3")
    assert result.code == 2  # two jobs were refused; the others ran
    sweep = sweep_folder(tmp_path)
    assert result.err.count("error: job") == 2 and "must divide" in result.err
    with (sweep / "sweep.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "", ""]
    assert [row["model.n_head"] for row in rows] == ["2", "2", "3", "3"]
    losses = [float(row["loss"]) for row in rows[:2]]
    assert losses == sorted(losses)
    for row in rows[:2]:
        summary = json.loads((sweep / row["folder"] / "summary.json").read_text(encoding="utf-8"))
        assert float(row["loss"]) == summary["after"]["valid/loss"]
        assert int(row["parameters"]) == summary["parameters"]
        assert row["folder"] == f"{row['job']},model.n_layer={row['model.n_layer']},model.n_head=2"
    assert all("must divide" in row["failed"] for row in rows[2:])
    shown = result.out[result.out.index("ranking, by validation loss") :]
    assert "must divide" in shown and f"{losses[0]:.4f}" in shown
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (sweep / "multirun.yaml").exists()


def test_a_job_returns_its_loss_to_the_sweeper(command, tmp_path: Path, monkeypatch) -> None:
    """A failed job returns infinity, and a resumed sweep the losses that it has already."""
    returned: list[float] = []
    monkeypatch.setattr(
        ranking.SweepRanking,
        "on_job_end",
        lambda self, config, job_return, **_: returned.append(job_return.return_value),
    )
    command("train", "-m", *SMOKE, "model.n_head=2,3")
    sweep = sweep_folder(tmp_path)
    (summary,) = sweep.glob("*/summary.json")
    loss = json.loads(summary.read_text(encoding="utf-8"))["after"]["valid/loss"]
    assert returned == [loss, math.inf]
    (sweep / "sweep.csv").unlink()  # as if it had been stopped before its ranking
    command("train", f"resume={sweep}")
    assert returned[2:] == [loss, math.inf]


def test_a_sweep_of_invalid_jobs_writes_nothing(command, tmp_path: Path) -> None:
    result = command("train", *SMOKE, "-m", "optim.lr=-1,-2", "run_root=none")
    assert result.code == 2 and result.err.count("optim.lr=") == 2
    assert not (tmp_path / "none").exists()


def test_a_rejected_sweep_leaves_nothing_to_resume(command, tmp_path: Path) -> None:
    result = command("train", *SMOKE, "-m", "model=nosuch,toy")
    assert result.code == 2 and "model=nosuch: invalid choice" in result.err
    result = command("train", "resume=latest")
    assert result.code == 2 and "no run in runs" in result.err
    assert not (tmp_path / "runs").exists()


def test_a_job_with_a_bug_is_listed_and_the_others_run(
    command, tmp_path: Path, monkeypatch
) -> None:
    from gptlab.training import train

    make = train.make_trainer

    def broken(setup, *arguments):
        if setup.config.model.n_layer == 1:
            raise ZeroDivisionError("a bug")
        return make(setup, *arguments)

    monkeypatch.setattr(train, "make_trainer", broken)
    result = command("train", "-m", *SMOKE, "model.n_layer=1,2")
    assert result.code == 2
    assert "Traceback" in result.err and "failed:  ZeroDivisionError: a bug" in result.out
    folders = sorted(path.name for path in sweep_folder(tmp_path).iterdir() if path.is_dir())
    assert folders == ["0,model.n_layer=1", "1,model.n_layer=2"]


def test_a_job_equals_the_same_run_outside_a_sweep(command, tmp_path: Path) -> None:
    settings = [*SMOKE, "model.dropout=0.1"]
    assert command("train", "-m", *settings, "model.n_layer=2,1").code == 0
    assert command("train", *settings, "model.n_layer=1", "run_root=alone").code == 0
    in_sweep = sweep_folder(tmp_path) / "1,model.n_layer=1" / "metrics.csv"
    (alone,) = (tmp_path / "alone").glob("*/metrics.csv")

    def losses(path: Path) -> list[str]:
        with path.open(newline="", encoding="utf-8") as file:
            return [row["train/loss"] + row["valid/loss"] for row in csv.DictReader(file)]

    assert losses(in_sweep) == losses(alone)


@pytest.mark.slow
def test_jobs_run_in_parallel(command, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason='pip install "gptlab[mlflow]"')
    at_once = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    at_once += ["data.num_workers=1", "logger=mlflow"]  # no workers there; one new store
    result = command("train", "-m", *SMOKE, *at_once, "model.n_head=2,3,4")
    assert result.code == 2
    with (sweep_folder(tmp_path) / "sweep.csv").open(newline="", encoding="utf-8") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "2", ""]


@pytest.mark.parametrize(
    ("argument", "varies"),
    [
        ("model.n_layer=1,2", True),
        ("seed=range(3)", True),
        ("+trainer.extra.x=1,2", True),
        ("model.norm='pre','post'", True),
        ("prompt='a, b'", False),
        ("optim.lr=1", False),
        ("optim.betas=[0.9,0.95]", False),
        ("-m", False),
    ],
)
def test_keys_with_several_values_are_recognized(monkeypatch, argument: str, varies: bool) -> None:
    monkeypatch.setenv(sweeps.VARIED_ENV, "")
    sweeps.remember_varied_keys([argument])
    assert sweeps.os.environ[sweeps.VARIED_ENV].split() == [sweeps.override_key(argument)] * varies


def test_lists_small_rates_and_new_keys_can_be_swept(command, tmp_path: Path) -> None:
    swept = ["optim.lr=1e-2,1e-5", "+trainer.extra.benchmark=true,false"]
    result = command("train", "-m", *SMOKE, "optim.betas=[0.9,0.95]", "optim.min_lr=0", *swept)
    assert result.code == 0, result.err
    sweep = sweep_folder(tmp_path)
    with (sweep / "sweep.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["+trainer.extra.benchmark"] for row in rows} == {"True", "False"}
    assert "betas" not in str(rows) and {float(row["optim.lr"]) for row in rows} == {1e-2, 1e-5}
    (sweep / "sweep.csv").unlink()  # as if it had been stopped early
    again = command("gptlab.report.sweep_ranking", str(sweep))
    assert again.code == 0 and (sweep / "sweep.csv").exists()
    jobs = ranking.read_jobs(sweep)
    assert ranking.swept_numbers(jobs, "optim.lr") == [1e-5, 1e-2]
    assert ranking.swept_numbers(jobs, "+trainer.extra.benchmark") == []


def test_different_vocabularies_are_ranked_by_bits_per_byte(command, tmp_path: Path) -> None:
    result = command("train", "-m", *SMOKE, "tokenizer=words,char")
    assert result.code == 0 and "ranking, by validation bits per byte" in result.out
    with (sweep_folder(tmp_path) / "sweep.csv").open(newline="", encoding="utf-8") as file:
        bits = [float(row["bits_per_byte"]) for row in csv.DictReader(file)]
    assert bits == sorted(bits)


def test_a_failing_ranking_exits_with_an_error(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ranking, "plot_ranking", lambda *_: 1 / 0)
    result = command("train", "-m", *SMOKE, "model.n_head=2,4")
    assert result.code == 1 and "ZeroDivisionError" in result.err
    assert (sweep_folder(tmp_path) / "sweep.csv").exists() and "ranking, by" in result.out


def test_each_sweep_has_its_own_folder(command, tmp_path: Path, monkeypatch) -> None:
    """Two sweeps of one second, in a folder whose name needs quoting; each is locked."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(sweeps, "datetime", Clock)
    root = "it's ${here}, 50 %"
    for _ in range(2):
        result = command("train", "-m", *SMOKE, "model.n_head=2,4", f"run_root={root}")
        assert result.code == 0, result.err
    found = sorted((tmp_path / root).iterdir())
    assert [path.name for path in found] == ["2026-01-02_030405_sweep", "2026-01-02_030405_sweep-2"]
    for sweep in found:
        assert len(list(sweep.glob("*/summary.json"))) == 2
    (found[1] / "sweep.csv").unlink()
    with run_dir.lock_run_dir(found[1]):
        result = command("train", f"run_root={root}", "resume=latest")
    assert result.code == 2 and "another process is training" in result.err
    assert command("train", f"run_root={root}", "resume=latest").code == 0
    assert (found[1] / "sweep.csv").exists()


@pytest.mark.parametrize("typed", [".", "swept/${now:%Y}"])
def test_a_sweep_accepts_a_typed_folder(command, tmp_path: Path, typed: str) -> None:
    (tmp_path / "mine").mkdir()
    result = command("train", "-m", *SMOKE, "model.n_head=2,4", f"hydra.sweep.dir='{typed}'")
    assert result.code == 0, result.err
    (found,) = tmp_path.rglob("sweep.csv")
    assert (found.parent / "sweep.json").exists() and (tmp_path / "mine").is_dir()
    assert len(list(found.parent.glob("*/summary.json"))) == 2


@pytest.mark.parametrize(
    "argument",
    [
        *("-m", "model.n_layer=2,4", "seed=range(3)", "experiment=tiny_char", "data=text"),
        *("+trainer.extra.benchmark=true", "tokenizer@tokenizer=char,words", "logger=none"),
        *("data.path='/a/b.txt'", "prompt='x'", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        *("logger=[tensorboard,wandb]", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=20"),
        *("hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=1"),
    ],
)
def test_arguments_of_known_keys_are_safe_to_repeat_on_resume(argument: str) -> None:
    assert sweeps.SAFE_OVERRIDE.fullmatch(argument)


def test_every_group_of_train_is_known_to_the_resume_check() -> None:
    assert sweeps.CONFIG_GROUPS.split("|") == config_groups("train")
