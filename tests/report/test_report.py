"""The report: what is read of runs, what is fitted, and a page that is complete in itself."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gptlab.evaluation.document_scores import (
    DocumentScores,
    pack_document_scores,
    paired_difference,
    read_document_scores,
)
from gptlab.report.html import Html, element
from gptlab.report.html_report import scaling_plots
from gptlab.report.load_runs import (
    LoadedRun,
    MetricPoint,
    labelled,
    load_runs,
    read_metrics,
    read_samples,
)
from gptlab.report.plots import curves_over, on_axes
from gptlab.report.scaling_law import fit_power_law, student
from gptlab.report.significance import against_the_best
from tests.conftest import TINY

SMOKE = ["profile=smoke", "data.max_samples=200", "trainer.max_steps=4", "trainer.eval_every=2"]
SMOKE += ["trainer.log_every=1", "trainer.sample_every=2", "max_new_tokens=20"]


class Page(HTMLParser):
    """What a browser would load, and the text it would show."""

    def __init__(self, content: str):
        super().__init__()
        self.loaded: list[str] = []
        self.text, self.tags = "", []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [v for k, v in attributes if k in ("src", "srcset", "data", "action") and v]
        self.loaded += [v for k, v in attributes if k == "href" and not v.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def report(command, *arguments: str) -> Page:
    result = command("gptlab.report.__main__", *arguments)
    assert result.code == 0, result.err
    return Page(Path("report/index.html").read_text(encoding="utf-8"))


@pytest.fixture
def sweep(command, tmp_path: Path) -> Path:
    """Four tiny runs over two numbers."""
    grid = ["model.n_layer=1,2", "model.d_model=8,16", "name=<i>&tiny"]
    result = command("train", "-m", *TINY[1:], *SMOKE, *grid)
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "runs").glob("*_sweep")
    return folder


def test_a_sweep_on_one_page(command, sweep: Path) -> None:
    evaluate = ["gptlab.evaluate", "suite=[perplexity]", "max_tokens=2000"]
    for job in sorted(sweep.glob("[0-9]*/"))[:2]:
        assert command(*evaluate, f"run={job}").code == 0
    page = report(command, str(sweep), "--prompt", "Once upon")
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert "script" not in page.tags and "link" not in page.tags and "i" not in page.tags
    for told in (
        "d_model=16, n_layer=2",
        "<i>&tiny",
        "What did it expect?",
        "gptlab.evaluate: valid/loss",
    ):
        assert told in page.text
    for job in sweep.glob("[0-9]*/"):
        summary = json.loads((job / "summary.json").read_text())
        assert f"{summary['after']['valid/loss']:.4f}" in page.text
        sample = (job / "samples" / "step_2.txt").read_text().strip()
        assert sample in page.text
    pictures = {path.name for path in Path("report").glob("*.png")}
    assert pictures >= {"curves_by_steps.png", "curves_by_tokens.png", "curves_by_time.png"}
    assert pictures >= {"scaling_parameters.png", "scaling_compute.png"}
    assert len(pictures) == 6 and "validation loss by model.d_model and model.n_layer" in page.text
    assert "interval of the exponent" in page.text
    assert "lowest: " in page.text  # of the two that were evaluated
    assert not list(Path("report").glob(".*"))


def test_settings_that_differ_are_told_apart_from_those_that_do_not(command, sweep) -> None:
    page = report(command, "runs", "--no-inside")
    shown = page.text.partition("what is the same in all runs")
    assert "model.d_model" in shown[0] and "model.n_layer" in shown[0]
    assert "optim.lr" not in shown[0] and "optim.lr" in shown[2]
    assert "What did it expect?" not in page.text


def test_an_unfinished_run_and_a_classifier_are_reported_too(command, trained: Path) -> None:
    (trained / "summary.json").unlink()
    spam = ["data=toy_spam", "profile=smoke", "trainer.max_steps=2", "data.max_samples=100"]
    result = command("train", *TINY, *spam)
    assert result.code == 0, result.err
    page = report(command, "runs")
    assert "(not finished)" in page.text and "of those that write" in page.text
    assert "valid/accuracy" in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no such run"),
        (["empty"], "holds no run"),
        (["damaged"], "config.yaml: is damaged"),
        (["runs", "--to", "mine"], "no report of gptlab's"),
        (["runs", "--to", "file"], "no report of gptlab's"),
        (["latest", "--prompt", "Xylophone§"], "Xylophone"),
    ],
)
def test_what_is_no_run_is_one_line(command, trained: Path, arguments: list[str], words) -> None:
    for name in ("empty", "damaged", "mine"):
        Path(name).mkdir()
    Path("damaged/config.yaml").write_text("model: 3")
    Path("mine/index.html").write_text("<p>my page</p>")
    Path("file").write_text("")
    result = command("gptlab.report.__main__", *arguments)
    assert result.code == 2 and words in result.err and "Traceback" not in result.err
    assert result.err.count("\n") == 1
    assert Path("mine/index.html").read_text() == "<p>my page</p>"
    assert not Path("report").exists()


def test_a_report_takes_the_place_of_one_before(command, trained: Path) -> None:
    report(command, "latest", "--no-inside")
    (trained / "config.yaml").write_text(
        (trained / "config.yaml").read_text().replace("name: null", "name: another")
    )
    assert "another" in report(command, "latest", "--no-inside").text


def test_each_axis_has_its_own_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,tokens,epoch,train/loss,train/tokens_per_second,valid/loss\n"
        "10,1000,0.1,5.0,500,\n"
        "20,3000,0.2,4.0,1000,4.5\n"
        "30,4000,0.3,3.5,,\n"
    )
    curves = read_metrics(path)
    assert [tuple(p) for p in curves["train/loss"]] == [
        (10, 1000, 2.0, 5.0),
        (20, 3000, 4.0, 4.0),
        (30, 4000, 4.0, 3.5),
    ]
    assert [tuple(p) for p in curves["valid/loss"]] == [(20, 3000, 4.0, 4.5)]


def test_curves_are_drawn_where_they_were_measured(command, trained: Path) -> None:
    found = load_runs(["latest"])
    drawn = {}

    def keep(axes, colours) -> None:
        curves_over("tokens", found)(axes, colours)
        drawn["lines"] = [line.get_xydata().tolist() for line in axes.get_lines()]

    forms = on_axes(keep)
    assert forms["png"].startswith(b"\x89PNG") and forms["light"] != forms["dark"]
    points = found[0].metrics["valid/loss"]
    assert [[p.tokens, p.value] for p in points] in drawn["lines"]
    assert found[0].best_possible == pytest.approx(drawn["lines"][-1][0][1])


def test_runs_that_would_have_one_name_are_told_apart(command, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert command("train", *TINY, *SMOKE, "name=twin", f"seed={seed}").code == 0
    labels = [run.label for run in load_runs(["runs"])]
    assert labels == ["twin (seed 1)", "twin (seed 2)"]


def test_a_power_law_is_found_with_its_interval() -> None:
    x = np.geomspace(1e4, 1e7, 8)
    law = fit_power_law(list(x), list(12 * x**-0.08))
    assert (law.scale, law.exponent) == (pytest.approx(12), pytest.approx(0.08))
    assert law.interval == (pytest.approx(0.08), pytest.approx(0.08))
    random, inside = np.random.default_rng(0), 0
    for _ in range(300):
        noisy = 12 * x**-0.08 * np.exp(0.02 * random.standard_normal(8))
        low, high = fit_power_law(list(x), list(noisy)).interval
        inside += low < 0.08 < high
    assert 0.92 < inside / 300 < 0.98  # 95 %
    low, high = law.band(x)
    assert (low <= law.curve(x) * 1.000001).all() and (high >= law.curve(x) * 0.999999).all()
    assert fit_power_law([1, 2, 2], [3, 2, 1]) is None
    assert fit_power_law([1, 2, 3], [3, 2, -1]) is None


def test_students_t_is_that_of_the_tables() -> None:
    known = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 30: 2.042}
    for freedom, quantile in known.items():
        assert student(freedom) == pytest.approx(quantile, abs=6e-4)


def documents(count: int, worse: float = 0, seed: int = 1) -> DocumentScores:
    """Of which some are far harder than others, for every model alike."""
    random, own = np.random.default_rng(1), np.random.default_rng(seed)
    tokens = random.integers(50, 150, size=count)
    nats = (random.normal(3, 1, size=count) + worse) * tokens + own.normal(0, 5, count)
    return DocumentScores(nats, tokens, tokens, 3.0)


def test_two_models_differ_or_do_not() -> None:
    better, same, worse = documents(400), documents(400, seed=2), documents(400, 0.05, seed=3)
    more, low, high = paired_difference(worse, better)
    assert 0 < low < more < high and more == pytest.approx(0.05, abs=0.02)
    assert worse.standard_error() > 0.04  # unpaired, it could not be told
    more, low, high = paired_difference(same, better)
    assert low < 0 < high
    assert (
        paired_difference(worse, better, confidence=0.9999)[1] < paired_difference(worse, better)[1]
    )


def told(tmp_path: Path, *measured: tuple[str, DocumentScores]) -> list[list[str]]:
    """The rows of runs whose documents were scored in these ways."""
    found = []
    for number, (how, each) in enumerate(measured):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "evaluation.npz").write_bytes(pack_document_scores({"valid": each}, how))
        assert read_document_scores(folder / "evaluation.npz")[0] == how
        found.append(LoadedRun(folder, {}, {}, {}, {}, label=f"run {number}"))
    return against_the_best(found)


def test_runs_are_compared_where_they_were_scored_alike(tmp_path: Path) -> None:
    alike = [("a", documents(400, 0.05, seed=3)), ("a", documents(400)), ("b", documents(400))]
    first, second = told(tmp_path, *alike)
    assert first[0] == "run 1, valid" and second[0] == "run 0, valid"
    assert second[-1] == "differs"


def test_chance_is_no_difference(tmp_path: Path) -> None:
    few = [("a", documents(19, seed=seed)) for seed in range(2)]
    assert "too few documents" in told(tmp_path, *few)[1][-1]
    wrong = 0
    for trial in range(20):  # of ten equal models, is any said to be another?
        place = tmp_path / f"trial {trial}"
        place.mkdir()
        equal = [("a", documents(60, seed=10 * trial + seed)) for seed in range(10)]
        wrong += any(row[-1] == "differs" for row in told(place, *equal))
    assert wrong <= 3  # 5 % are allowed


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"no archive"])
def test_damaged_documents_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evaluation.npz").write_bytes(content)
    assert read_document_scores(tmp_path / "evaluation.npz") == ("", {})
    assert read_document_scores(tmp_path / "none.npz") == ("", {})


def run(label: str = "a", **summary) -> LoadedRun:
    config = {"model.tied_head": False, "model.vocab_size": 10, "model.d_model": 4}
    config |= {"model.position": "learned", "model.context_length": 8}
    facts = {
        "parameters": 1000,
        "tokens": 50,
        "after": {"valid/loss": 2.0},
        "corpus": {"name": "c"},
    }
    return LoadedRun(Path(label), config, {}, facts | summary, {}, label=label)


def test_compute_is_six_operations_a_weight_that_is_multiplied() -> None:
    assert run().compute == 6 * (1000 - 10 * 4 - 8 * 4) * 50
    tied = run()
    tied.config |= {"model.tied_head": True, "model.position": "rotary"}
    assert tied.compute == 6 * 1000 * 50


def test_scaling_is_of_one_text_above_its_best_possible() -> None:
    pictures: dict[str, bytes] = {}
    some = [
        run(
            name,
            parameters=size,
            after={"valid/loss": 1 + 100 / size, "valid/best_possible": 1.0},
        )
        for name, size in (("a", 1000), ("b", 2000), ("c", 4000))
    ]
    other = run("d", parameters=3000, corpus={"name": "another"})
    page = scaling_plots([*some, other], pictures)
    assert "The line: 100 · parameters<sup>−1.000</sup>" in page
    assert "left out: 1 on another text" in page and set(pictures) == {
        "scaling_parameters",
        "scaling_compute",
    }


def test_labels_say_what_a_sweep_has_set_and_no_formula_is_drawn() -> None:
    several = [run("x"), run("y")]
    several[0].swept = ["optim.lr=0.001", "data.path=a/b.txt"]
    several[1].config["name"] = "_$x_$^{"
    labels = [each.label for each in labelled(several)]
    assert labels == ["lr=0.001, path=a/b.txt", "_$x_$^{"]
    for each in several:
        each.metrics = {"valid/loss": [MetricPoint(1, 1, 1.0, 2.0), MetricPoint(2, 2, 2.0, 1e7)]}
    shown = []

    def keep(axes, colours) -> None:
        curves_over("steps", several)(axes, colours)
        shown.extend(text.get_text() for text in axes.get_legend().get_texts())
        assert axes.get_ylim()[1] < 10  # one that diverged presses nothing together

    on_axes(keep)
    assert [text.strip("\u200b").replace("\\", "") for text in shown[:2]] == labels


def test_samples_follow_each_other_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for number in (80, 9, 1000, *range(100, 120)):
        (tmp_path / "samples" / f"step_{number}.txt").write_text(str(number))
    (tmp_path / "samples" / "step_5.txt").symlink_to("/etc/hostname")
    found = [int(sample.text) for sample in read_samples(tmp_path)]
    assert found == sorted(found) and (found[0], found[-1], len(found)) == (9, 1000, 12)


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
def test_a_damaged_run_is_left_out_of_many_and_refused_alone(
    command, trained: Path, name: str, content: str
) -> None:
    whole = trained.with_name("whole")
    shutil.copytree(trained, whole)
    (trained / name).write_text(content)
    result = command("gptlab.report.__main__", "runs", "--no-inside")
    assert result.code == 0 and f"left out: {trained}" in result.err, result.err
    result = command("gptlab.report.__main__", str(trained))
    assert result.code == 2 and name in result.err and result.err.count("\n") == 1


def test_values_that_are_no_numbers_are_no_points(command, trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    summary["after"]["valid/loss"] = float("nan")
    (trained / "summary.json").write_text(json.dumps(summary))
    lines = (trained / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("valid/loss")
    row = lines[-1].split(",")
    row[column] = "inf"
    (trained / "metrics.csv").write_text("\n".join([*lines, ",".join(row)]) + "\n")
    report(command, "latest", "--no-inside")
    assert load_runs(["latest"])[0].loss is None


def test_text_is_never_taken_for_html() -> None:
    told = element("p", "<b>&", Html("<i>x</i>"), title='"<', open=True, class_="a", id=None)
    assert told == '<p title="&quot;&lt;" open class="a">&lt;b&gt;&amp;<i>x</i></p>'
    assert re.fullmatch(r"<b>&lt;</b>&gt;", element("b", "<") + ">")
