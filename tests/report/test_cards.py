"""Experiment cards: stored runs, their groups, and the generated text."""

import json
import shutil
from pathlib import Path

import pytest

from gptlab.report.cards import measured_runs, render
from gptlab.report.load_runs import MetricPoint
from gptlab.utils.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def docs(tmp_path: Path) -> tuple[Path, Path]:
    """docs/experiments without runs, and a README: (folder, file)."""
    folder = tmp_path / "docs"
    folder.mkdir()
    shutil.copy(render.DOCS / "published.yaml", folder)
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{render.TABLE_MARKS[0]}\nold\n{render.TABLE_MARKS[1]}\nafter\n", encoding="utf-8"
    )
    return folder, readme


def test_card_without_runs_says_not_measured(docs) -> None:
    folder, readme = docs
    render.write_cards(folder, readme)
    for name in ("tinystories_postnorm", "tinystories_prenorm", "tiny_char", "fineweb_16m"):
        card = (folder / f"{name}.md").read_text(encoding="utf-8")
        assert card.lower().count(render.NOT_MEASURED.lower()) >= 2 and "## Settings" in card
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.lower().count(render.NOT_MEASURED.lower()) == 7


def test_card_shows_the_results_of_its_runs(command, tmp_path: Path, docs) -> None:
    folder, readme = docs
    small = ["data=toy_stories", "profile=smoke", "data.path=[deep/stories.txt]"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "stories.txt").write_text(
        "Once upon a time, a cat.\n<|endoftext|>\n" * 40, encoding="utf-8"
    )
    for seed in (1, 2):
        result = command("train", "experiment=tiny_char", *small, f"seed={seed}")
        assert result.code == 0, result.err
    runs = sorted((tmp_path / "runs").iterdir())
    for run in runs:
        measured_runs.save_run(measured_runs.read_run(run), folder / "runs")
    render.write_cards(folder, readme)
    card, row = (
        (folder / "tiny_char.md").read_text(encoding="utf-8"),
        readme.read_text(encoding="utf-8"),
    )
    losses = [
        json.loads((run / "summary.json").read_text(encoding="utf-8"))["after"]["valid/loss"]
        for run in runs
    ]
    assert f"{sum(losses) / 2:.4f} ± " in card and f"{sum(losses) / 2:.4f} ± " in row
    assert all(f"{loss:.4f} nats per token" in card for loss in losses)
    assert "trainer.max_steps=2 (not 10000)" in card and "| seeds | 1, 2 |" in card
    assert "'data.path=[stories.txt]'" in card and "deep" not in card and str(tmp_path) not in card
    assert "We changed the settings in the first row and trained on a sample of the data." in card
    assert (folder / "tiny_char.png").read_bytes().startswith(b"\x89PNG")
    for record in (folder / "runs" / "tiny_char").iterdir():
        assert "deep" not in record.read_text(encoding="utf-8") and str(
            tmp_path
        ) not in record.read_text(encoding="utf-8")
    sample = (runs[0] / "samples" / "step_2.txt").read_text(encoding="utf-8").splitlines()[1]
    assert sample in card


def test_only_finished_runs_of_experiments_are_stored(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a finished run"):
        measured_runs.read_run(tmp_path)
    with pytest.raises(UserError, match="was not trained with experiment=NAME"):
        measured_runs.read_run(trained)


def test_groups_of_runs_have_unique_labels() -> None:
    def run(**config) -> measured_runs.MeasuredRun:
        return measured_runs.MeasuredRun({"experiment": "tiny_char"}, {"seed": 1} | config, {}, {})

    three = {"model.n_layer": 1, "model.n_head": 1}
    runs = [run(**{"optim.lr": 0.1})] + [run(**three, **{"optim.lr": rate}) for rate in (0.1, 0.2)]
    groups = measured_runs.group_by_seed([*runs, run(name="mine"), run(name="mine")])
    assert [group.label for group in groups] == [
        *("tiny_char, lr=0.1", "tiny_char, changed settings", "tiny_char, changed settings (2)"),
        "tiny_char: mine",
    ]
    assert len(groups[3].runs) == 2


def test_long_curves_are_averaged() -> None:
    points = [MetricPoint(step, 0, 0.0, float(step)) for step in range(1, 1001)]
    curve = measured_runs.average_neighbors(points)
    assert len(curve) == measured_runs.MAX_CURVE_POINTS
    assert curve[0] == [5, 3.0] and curve[-1] == [1000, 998.0]


def test_committed_cards_match_the_stored_runs(tmp_path: Path, monkeypatch) -> None:
    """No measured figure is typed by hand; the table's cells are short."""
    monkeypatch.setattr(render, "save_card_curves", lambda *_: None)  # slow
    folder, readme = tmp_path / "experiments", tmp_path / "README.md"
    shutil.copytree(render.DOCS, folder)
    shutil.copy(ROOT / "README.md", readme)
    render.write_cards(folder, readme)
    assert readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    for path in render.DOCS.glob("*.md"):
        assert (folder / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    table = (
        readme.read_text(encoding="utf-8")
        .split(render.TABLE_MARKS[0])[1]
        .split(render.TABLE_MARKS[1])[0]
    )
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    assert len(rows) == 7
    for row in rows:
        assert all(len(cell.split()) <= 12 for cell in row.strip("| ").split(" | ")), row


def test_stored_runs_and_ignored_keys_use_current_config_keys() -> None:
    """A renamed key would otherwise drop out of the comparison unnoticed."""
    known = set(measured_runs.experiment_config("tiny_char"))
    assert known >= measured_runs.IGNORED_KEYS | measured_runs.CLASSIFIER_KEYS
    for path in (render.DOCS / "runs").glob("*/*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        unknown = {key for key in config if not key.startswith(("callbacks", "logger"))} - known
        assert not unknown, path.name
