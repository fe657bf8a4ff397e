"""What the page reads of run folders, whatever they contain."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.app import run_history
from gptlab.app.model_registry import ModelRegistry
from tests.app.serving import Server, find_run
from tests.conftest import posix_only

STRANGE_FILES = {
    "config.yaml": b"model: gpt2\ndata: [1]\n",
    "config.yaml ": b"model:\n  n_layer: !!binary /9j/\n  d_model: .nan\n",
    "metrics.csv": b"step,valid/loss\n1,2.5\n2,\xff\n3,1.5\n4",
    "summary.json": b'{"steps": "\\ud800", "parameters": NaN, "after": [1], "before": {"a": NaN}}',
    "evaluation.json": b'{"results": {"b/loss": 2, "c": true, "d": null, "e": "\\ud800"}}',
}


def make_run(root: Path, name: bytes, file: str, content: bytes) -> None:
    folder = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}", encoding="utf-8")
    (folder / file.strip()).write_bytes(content)


def test_api_returns_curves_results_and_checkpoints_of_a_run(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server, run = start_server(), find_run(tmp_path, "story")
    with (run / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("9999,12")  # a line that is being written
    status, details = server.request(f"/api/run?name={run.name}")
    assert status == 200 and details["task"] == "text" and not details["training"]
    steps = [(each["name"], each["step"]) for each in details["checkpoints"]]
    assert steps[0] == ("step_2", 2) and steps[-1] == ("step_6", 6) and len(steps) == 5
    assert 9999 not in [step for step, _ in details["curves"]["train"]]
    assert details["best_loss"] == min(loss for _, loss in details["curves"]["valid"])
    assert details["config"]["model"]["d_model"] == 16
    assert details["started"] and details["steps"] == 6
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert details["results"] == {"before": {}, "after": summary["after"], "later": {}}
    (run / "evaluation.json").write_text('{"results": {"mine/score": 0.5}}', encoding="utf-8")
    details = server.request(f"/api/run?name={run.name}")[1]
    assert details["results"]["later"] == {"mine/score": 0.5}
    assert server.request("/api/run?name=..")[0] == 404
    assert {each["task"] for each in server.request("/api/runs")[1]} == {
        "text", "classification", "instructions",
    }  # fmt: skip


def test_strange_folder_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    for name, content in STRANGE_FILES.items():
        make_run(tmp_path, name.replace(" ", "2").encode(), name, content)
    make_run(tmp_path, b"caf\xe9", "summary.json", b"{}")
    checkpoint = find_run(folder, "story") / "checkpoints" / "best.ckpt"
    registry = ModelRegistry(tmp_path, checkpoint, 1, "cpu", "float32")
    runs = {each["name"]: each for each in run_history.list_runs(registry)}
    details = [run_history.describe_run(registry, name) for name in runs]
    json.dumps([runs, details], allow_nan=False).encode()
    assert len(runs) == len(STRANGE_FILES) + 1
    assert runs["metrics.csv"]["best_loss"] == 1.5
    assert runs["config.yaml"]["task"] == "text"
    results = {each["name"]: each["results"] for each in details}
    assert results["summary.json"] == {"before": {}, "after": {}, "later": {}}
    assert results["evaluation.json"]["later"] == {"b/loss": 2}


@pytest.mark.fast
def test_number_of_results_is_bounded(tmp_path: Path) -> None:
    after = {f"{n}/{'x' * 200}": n for n in range(1000)}
    (tmp_path / "summary.json").write_text(json.dumps({"after": after}), encoding="utf-8")
    names = run_history.read_run_results(tmp_path)["after"]
    assert len(names) == run_history.MAX_RESULTS and max(map(len, names)) == 100


@posix_only
@pytest.mark.fast
def test_latest_samples_come_first_without_pipes_and_links(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for number in (900, 1000, 20):
        (tmp_path / "samples" / f"step_{number}.txt").write_text("x" * 20_000, encoding="utf-8")
    os.mkfifo(tmp_path / "samples" / "step_1001.txt")  # opening it would block
    (tmp_path / "samples" / "step_1002.txt").symlink_to("step_20.txt")
    samples = run_history.read_latest_samples(tmp_path)
    assert [each["name"] for each in samples] == ["step 1000", "step 900", "step 20"]
    assert {len(each["text"]) for each in samples} == {run_history.MAX_SAMPLE_LENGTH}


@pytest.mark.fast
def test_metrics_are_read_again_only_after_they_grew(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,valid/loss\n1,2.5\n", encoding="utf-8")
    assert run_history.summarize_run("run", tmp_path)["best_loss"] == 2.5
    with monkeypatch.context() as patched:
        patched.setattr(
            run_history, "open_text", lambda path: 1 / 0 if path.suffix == ".csv" else io.StringIO()
        )
        assert run_history.summarize_run("run", tmp_path)["best_loss"] == 2.5
    path.write_text("step,valid/loss\n1,2.5\n2,0.5\n", encoding="utf-8")
    assert run_history.summarize_run("run", tmp_path)["best_loss"] == 0.5
