"""Loading run folders: curves, labels, samples, and damaged files."""

import json
import os
import shutil
from pathlib import Path

import pytest

from gptlab.report.load_runs import (
    MetricPoint,
    label_runs,
    load_runs,
    read_metrics,
    read_samples,
)
from gptlab.report.plots import loss_curves, plot_on_axes
from gptlab.utils.errors import UserError
from tests.report.test_html_report import make_run


@pytest.mark.fast
def test_each_metric_has_its_position_on_every_axis(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,tokens,epoch,train/loss,train/tokens_per_second,valid/loss\n"
        "10,1000,0.1,5.0,500,\n"
        "20,3000,0.2,4.0,1000,4.5\n"
        "30,4000,0.3,3.5,,\n",
        encoding="utf-8",
    )
    curves = read_metrics(path)
    assert [tuple(p) for p in curves["train/loss"]] == [
        (10, 1000, 2.0, 5.0),
        (20, 3000, 4.0, 4.0),
        (30, 4000, 4.0, 3.5),
    ]
    assert [tuple(p) for p in curves["valid/loss"]] == [(20, 3000, 4.0, 4.5)]


def test_curves_are_drawn_where_they_were_measured(run_folder: Path) -> None:
    (run,) = load_runs(["latest"])
    lines = []

    def draw(axes, colors) -> None:
        loss_curves("tokens", [run])(axes, colors)
        lines[:] = [line.get_xydata().tolist() for line in axes.get_lines()]

    plot = plot_on_axes(draw)
    assert plot.png.startswith(b"\x89PNG") and plot.light != plot.dark
    points = run.metrics["valid/loss"]
    assert [[p.tokens, p.value] for p in points] in lines
    assert run.best_possible == pytest.approx(lines[-1][0][1])


def test_labels_show_swept_settings_and_are_drawn_literally() -> None:
    runs = [make_run("x"), make_run("y")]
    runs[0].overrides = ["optim.lr=0.001", "data.path=a/b.txt"]
    runs[1].config["name"] = "_$x_$^{"
    labels = [run.label for run in label_runs(runs)]
    assert labels == ["lr=0.001, path=a/b.txt", "_$x_$^{"]
    for run in runs:
        run.metrics = {"valid/loss": [MetricPoint(1, 1, 1.0, 2.0), MetricPoint(2, 2, 2.0, 1e7)]}
    shown = []

    def draw(axes, colors) -> None:
        loss_curves("steps", runs)(axes, colors)
        shown.extend(text.get_text() for text in axes.get_legend().get_texts())
        assert axes.get_ylim()[1] < 10  # a diverged run does not flatten the others

    plot_on_axes(draw)
    assert [text.strip("\u200b").replace("\\", "") for text in shown[:2]] == labels


@pytest.mark.fast
def test_runs_with_one_name_get_different_labels() -> None:
    runs = [make_run(folder) for folder in ("2026-01-01_120000_a", "2026-01-01_130000_a")]
    for seed, run in enumerate(runs):
        run.config |= {"name": "twin", "seed": seed}
    assert [run.label for run in label_runs(runs)] == ["twin (seed 0)", "twin (seed 1)"]
    runs[1].config["seed"] = 0
    assert [run.label for run in label_runs(runs)] == [
        "twin (2026-01-01_120000)",
        "twin (2026-01-01_130000)",
    ]
    for run in runs:
        run.folder = Path("same")
    assert [run.label for run in label_runs(runs)] == ["1: twin (same)", "2: twin (same)"]


def test_samples_are_sorted_by_step_and_thinned(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for number in (80, 9, 1000, *range(100, 120)):
        (tmp_path / "samples" / f"step_{number}.txt").write_text(str(number), encoding="utf-8")
    if os.name != "nt":
        (tmp_path / "samples" / "step_5.txt").symlink_to("/etc/hostname")
    steps = [int(sample.text) for sample in read_samples(tmp_path)]
    assert steps == sorted(steps) and (steps[0], steps[-1], len(steps)) == (9, 1000, 12)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"after": null}'),
        ("summary.json", "[" * 100_000),
        (
            "summary.json",
            '{"parameters": "many", "tokens": 1, "after": {}, "corpus": {"name": "c"}}',
        ),
        ("metrics.csv", "step,tokens,valid/loss\n1,,2.5\n"),
        ("evaluation.json", "[1]"),
        ("config.yaml", "[1"),
    ],
)
def test_a_damaged_run_is_skipped_among_others_and_refused_alone(
    run_folder: Path, capsys, name: str, content: str
) -> None:
    whole = run_folder.with_name("whole")
    shutil.copytree(run_folder, whole)
    (run_folder / name).write_text(content, encoding="utf-8")
    assert [run.folder for run in load_runs(["runs"])] == [whole.resolve()]
    assert f"skipped: {run_folder}" in capsys.readouterr().err
    with pytest.raises(UserError, match=name) as error:
        load_runs([str(run_folder)])
    assert "\n" not in error.value.line()


def test_values_that_are_not_finite_are_not_points(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    summary["after"]["valid/loss"] = float("nan")
    (run_folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    lines = (run_folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("valid/loss")
    row = lines[-1].split(",")
    row[column] = "inf"
    (run_folder / "metrics.csv").write_text(
        "\n".join([*lines, ",".join(row)]) + "\n", encoding="utf-8"
    )
    (run,) = load_runs(["latest"])
    assert run.loss is None and all(point.value < 100 for point in run.metrics["valid/loss"])
    plot_on_axes(loss_curves("steps", [run]))
