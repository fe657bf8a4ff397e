"""Loggers with their real libraries: offline, several at once, resumed into the same run."""

import contextlib
import importlib.util
import multiprocessing
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import gptlab
from gptlab.training import instantiate
from gptlab.training.loggers import Wandb
from tests.conftest import TINY, files_below
from tests.faults import listeners

SMALL = [*TINY, "profile=smoke", "data.max_samples=60", "data.final_tokens=400"]
STEPS = ["trainer.max_steps=4", "trainer.log_every=1", "trainer.checkpoint_every=1"]
CRASH = "+callbacks.stop={_target_: tests.faults.callbacks.StopAtStep, step: 2}"
TRACKERS = ("wandb", "mlflow", "trackio")
LOCAL = ("127.0.0.1", "::1", "localhost")


class Tracked(NamedTuple):
    """A run that crashed after step 2 and was resumed, with all trackers at once."""

    root: Path
    folder: Path
    sent: list[str]  # connections to other machines


@contextlib.contextmanager
def network_trap() -> Iterator[list[str]]:
    """Record connections to other machines: this process's, and its children's by a proxy."""
    sent: list[str] = []
    connect = socket.socket.connect

    def trapped(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            sent.append(str(address))
            raise OSError("no network in tests")
        connect(self, address)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with proxy.accept()[0] as connection:
                    sent.append(str(connection.recv(100)))

    with socket.create_server(("127.0.0.1", 0)) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", trapped)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "http_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        threading.Thread(target=accept, daemon=True).start()
        yield sent


@pytest.fixture(scope="module")
def tracked(train_once, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    for name in TRACKERS:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f'pip install "gptlab[{name}]"')
    names = ("HOME", "WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR")
    with network_trap() as sent, pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        run = train_once(*SMALL, *STEPS, f"logger=[tensorboard,{','.join(TRACKERS)}]", CRASH)
        with contextlib.chdir(run.root):
            gptlab.train("resume=latest", "callbacks=none")
        assert not files_below(Path(os.environ["HOME"]))
        yield Tracked(run.root, run.folder, sent)


def test_trackers_send_nothing_without_an_account(tracked: Tracked) -> None:
    assert tracked.sent == []
    assert {path.name for path in tracked.root.iterdir()} == {"runs", "corpora"}


def test_tensorboard_is_written_beside_the_trackers(tracked: Tracked) -> None:
    assert list(tracked.folder.glob("events*"))


def test_wandb_keeps_one_run_in_the_run_folder(tracked: Tracked) -> None:
    files = sorted(tracked.folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({path.name for path in files}) == 1  # the same id
    for content in (path.read_bytes() for path in files):
        assert all(name in content for name in (b"train/loss", b"model.n_layer"))
    assert b"final/valid_loss" in files[1].read_bytes()
    assert list(tracked.folder.glob("wandb/*/files/media/html/samples*"))


@pytest.mark.parametrize(
    ("account", "offline", "environment", "mode"),
    [
        (False, None, None, "offline"),
        (True, None, None, None),  # None: as wandb decides, online
        (True, True, None, "offline"),
        (False, False, None, None),
        (False, None, "disabled", None),
    ],
)
def test_wandb_goes_online_only_with_an_account(
    tmp_path: Path, monkeypatch, account: bool, offline: bool | None, environment, mode
) -> None:
    wandb = pytest.importorskip("wandb", reason='pip install "gptlab[wandb]"')
    run = SimpleNamespace(offline=mode == "offline", disabled=False, url="URL", dir=str(tmp_path))
    asked: list[dict] = []
    monkeypatch.setattr(wandb, "login", lambda **_: account)
    monkeypatch.setattr(wandb, "init", lambda **settings: asked.append(settings) or run)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    Wandb(str(tmp_path), offline, project="p")
    assert asked[0]["mode"] == mode and asked[0]["project"] == "p"


def test_wandb_takes_no_settings_from_a_run_folder(tracked: Tracked, tmp_path: Path) -> None:
    """A stranger's settings would send the user's key and data to another server."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text(
        "[default]\nbase_url = http://evil\nmode = online\n", encoding="utf-8"
    )
    logger = Wandb(str(tmp_path), project="p")
    settings = logger.experiment.settings
    logger.close(failed=False)
    assert settings.mode == "offline" and "evil" not in settings.base_url


def test_mlflow_has_one_finished_run_with_all_steps(tracked: Tracked) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.root}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("gptlab")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == tracked.folder.name
    assert run.data.params["model.n_layer"] == "1"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step for point in history} == {1, 2, 3, 4}
    assert run.data.metrics["final/valid_loss"] == gptlab.Run(tracked.folder).summary.valid_loss
    assert client.list_artifacts(run.info.run_id, "samples")


def test_trackio_has_one_run_with_all_steps(tracked: Tracked) -> None:
    with sqlite3.connect(tracked.root / "runs" / "trackio" / "gptlab.db") as store:
        rows = store.execute(
            "select run_id, run_name, step, cast(metrics as text) from metrics"
        ).fetchall()
        ((configuration,),) = store.execute("select cast(config as text) from configs").fetchall()
    assert len({row[0] for row in rows}) == 1 and {row[1] for row in rows} == {tracked.folder.name}
    assert {row[2] for row in rows if '"train/loss"' in row[3]} == {1, 2, 3, 4}
    assert '"samples"' in str(rows) and '"model.n_layer":1' in configuration


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_line_before_training(
    command, tmp_path: Path, monkeypatch, name: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module == name else find_spec(module)
    )
    result = command("train", *SMALL, f"logger={name}")
    assert result.code == 2 and not list(tmp_path.iterdir())
    assert result.err == f'error: logger={name} needs {name}: pip install "gptlab[{name}]"\n'


def test_a_logger_that_cannot_start_is_one_line(command, tmp_path: Path) -> None:
    """The run is there with its step 0, and continues without the logger."""
    board = "logger.tensorboard._target_=lightning.pytorch.loggers.CSVLogger"
    result = command("train", *SMALL, board)
    assert result.code == 2 and result.err.splitlines()[-1].startswith("error: logger.tensorboard:")
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"resume={folder.relative_to(tmp_path)} logger=none" in result.err
    assert command("train", f"resume={folder}", "logger=none").code == 0


def test_a_logger_of_the_user_receives_configuration_and_metrics(command, tmp_path: Path) -> None:
    listeners.SEEN.clear()
    target = "+logger.mine._target_=tests.faults.listeners.OwnLogger"
    result = command("train", *SMALL, "logger=none", target)
    assert result.code == 0, result.err
    save_dir, n_layer, *logged = listeners.SEEN
    assert (tmp_path / save_dir / "summary.json").exists() and n_layer == 1
    assert (2, "train/loss") in {(step, name) for step, names in logged for name in names}
    assert "final/valid_loss" in logged[-1][1]


REFUSALS = {
    "DeviceStatsMonitor": ["logger=none"],
    "LearningRateMonitor": ["logger=none"],
    "EarlyStopping": ["+callbacks.mine.monitor=valid/los"],
    "GradientAccumulationScheduler": ["+callbacks.mine.scheduling={1: 2}"],
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_callback_that_refuses_its_settings_is_one_line(
    command, tmp_path: Path, kind: str
) -> None:
    target = f"+callbacks.mine._target_=lightning.pytorch.callbacks.{kind}"
    result = command("train", *SMALL, target, *REFUSALS[kind])
    last = result.err.splitlines()[-1]
    assert result.code == 2 and last.startswith("error: callbacks.mine: "), result.err
    assert "Traceback" not in result.err


def test_callbacks_that_need_a_logger_find_the_one_that_was_chosen(command, tmp_path) -> None:
    kinds = ("DeviceStatsMonitor", "LearningRateMonitor")
    targets = [f"+callbacks.{k}._target_=lightning.pytorch.callbacks.{k}" for k in kinds]
    result = command("train", *SMALL, *targets)
    assert result.code == 0, result.err


def test_a_bug_in_a_callback_keeps_its_traceback() -> None:
    from gptlab.config.schema import TrainConfig

    with pytest.raises(ValueError), instantiate.explain_callback_errors(TrainConfig()):
        raise ValueError("a bug")


def test_a_job_of_a_daemon_makes_its_own_batches(command, monkeypatch) -> None:
    """As the joblib launcher's jobs are, which may start no worker processes."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    result = command("train", *SMALL, "data.num_workers=1")
    assert result.code == 0, result.err
    assert "data.num_workers=1: this launcher's jobs cannot start worker processes" in result.out
