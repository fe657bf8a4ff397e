"""A run folder from Python."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import gptlab


def test_a_run_gives_what_its_folder_holds(run: gptlab.Run) -> None:
    folder = run.folder
    assert run.finished and folder.is_absolute()
    assert run.config == yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary = run.summary
    assert summary.valid_loss == content["after"]["valid/loss"]
    assert summary.perplexity == content["after"]["valid/perplexity"]
    assert 0 < summary.best_possible_loss < summary.valid_loss
    assert (summary.steps, summary.accuracy) == (2, None)
    assert run.samples["step_2"] == (folder / "samples" / "step_2.txt").read_text(encoding="utf-8")


def test_metrics_are_a_frame_or_without_pandas_a_list(run: gptlab.Run, monkeypatch) -> None:
    with (run.folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    frame = run.metrics
    assert len(frame) == len(rows) == 3
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    for dictionary, row, (_, series) in zip(run.metrics, rows, frame.iterrows(), strict=True):
        assert dictionary == {key: float(text) for key, text in row.items() if text}
        assert dictionary == series.dropna().to_dict()


def test_the_plot_shows_the_losses_and_the_best_possible_one(run: gptlab.Run) -> None:
    (axes,) = run.plot().axes
    lines = [line.get_xydata().tolist() for line in axes.get_lines()]
    training = run.metrics[["step", "train/loss"]].dropna().values.tolist()
    validation = run.metrics[["step", "valid/loss"]].dropna().values.tolist()
    assert lines[:2] == [training, validation]
    assert lines[2][0][1] == pytest.approx(run.summary.best_possible_loss)
    assert run.plot("tokens")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(gptlab.UserError, match="x_axis=epochs: invalid choice"):
        run.plot("epochs")


def test_a_notebook_shows_a_card_with_escaped_names(run: gptlab.Run, tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<script>"
    shutil.copytree(run.folder, folder)
    card = gptlab.Run(folder)._repr_html_()
    assert "<script>" not in card and "&lt;script&gt;" in card
    assert f"{run.summary.valid_loss:.4f} nats" in card and "data:image/png;base64," in card


def test_runs_are_found_as_on_the_command_line(run: gptlab.Run, home: Path, tmp_path: Path) -> None:
    for name in ("latest", run.folder.name, run.folder, f"runs/{run.folder.name}"):
        assert gptlab.Run(name).folder == run.folder
    for name, words in {"nowhere": "no such run", "corpora": "is not a run folder"}.items():
        with pytest.raises(gptlab.UserError, match=words):
            gptlab.Run(name)
    with pytest.raises(gptlab.UserError, match="latest"):
        gptlab.Run(run_root=tmp_path)


def test_evaluation_equals_the_command(command, run: gptlab.Run, home: Path) -> None:
    results = run.evaluate("perplexity", "text_quality", num_samples=2, max_new_tokens=5)
    stored = run.folder / "evaluation.json"
    assert json.loads(stored.read_text(encoding="utf-8"))["results"] == results
    stored.unlink()
    arguments = ["suite=[perplexity,text_quality]", "num_samples=2", "max_new_tokens=5"]
    assert command("gptlab.evaluate", f"run={run.folder}", *arguments).code == 0
    assert json.loads(stored.read_text(encoding="utf-8"))["results"] == results
    with pytest.raises(gptlab.UserError, match="did you mean 'perplexity'"):
        run.evaluate("perplexty")
