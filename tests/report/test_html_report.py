"""The report page: complete, self-contained, and safe for any text."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from gptlab.report import html_report
from gptlab.report.html_report import render_report
from gptlab.report.inspection import ModelInspection, ShadedToken
from gptlab.report.load_runs import LoadedRun, MetricPoint, SampleFile, load_run
from tests.report.conftest import SWEEP_NAME, run_in


class Page(HTMLParser):
    """The addresses that a browser would load, the tags, and the visible text."""

    def __init__(self, content: str):
        super().__init__()
        self.loaded: list[str] = []
        self.text, self.tags = "", []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        self.loaded += [v for k, v in attributes if k in ("src", "srcset", "data", "action") and v]
        self.loaded += [v for k, v in attributes if k == "href" and not v.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def report(command, *arguments: str) -> Page:
    result = command("gptlab.report.__main__", *arguments)
    assert result.code == 0, result.err
    return Page(Path("report/index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep_report(sweep_root: Path) -> Path:
    """The report folder of the shared sweep."""
    run_in(sweep_root, "gptlab.report.__main__", "runs", "--prompt", "Once § upon")
    return sweep_root / "report"


def test_report_shows_all_runs_and_loads_nothing(sweep: Path, sweep_report: Path) -> None:
    page = Page((sweep_report / "index.html").read_text(encoding="utf-8"))
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert "script" not in page.tags and "link" not in page.tags and "i" not in page.tags
    for text in ("d_model=16, n_layer=2", SWEEP_NAME, "Surprise", "gptlab.evaluate: valid/loss"):
        assert text in page.text
    for job in sweep.glob("[0-9]*/"):
        run = load_run(job)
        assert f"{run.loss:.4f}" in page.text
        assert run.samples[0].text in page.text
    pictures = {path.name for path in sweep_report.glob("*.png")}
    assert pictures == {
        *("curves_by_steps.png", "curves_by_tokens.png", "curves_by_time.png"),
        *("scaling_parameters.png", "scaling_compute.png", "heat_map_1.png"),
    }
    assert "validation loss by model.d_model and model.n_layer" in page.text
    assert "interval of the exponent" in page.text
    assert "lowest: " in page.text  # compares the two runs that were evaluated
    assert not list(sweep_report.glob(".*"))


def test_report_separates_differing_settings_from_common_ones(sweep_report: Path) -> None:
    page = Page((sweep_report / "index.html").read_text(encoding="utf-8"))
    differing, _, common = page.text.partition("settings common to all runs")
    assert "model.d_model" in differing and "model.n_layer" in differing
    assert "optim.lr" not in differing and "optim.lr" in common


def test_report_includes_unfinished_runs_and_classifiers(command, run_folder: Path) -> None:
    (run_folder / "summary.json").unlink()
    tiny = ["model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.d_ff=32"]
    spam = ["data=toy_spam", "profile=smoke", "trainer.max_steps=2", "data.max_samples=100"]
    result = command("train", *tiny, *spam)
    assert result.code == 0, result.err
    page = report(command, "runs")
    assert "(unfinished)" in page.text and "classifiers are not inspected" in page.text
    assert "valid/accuracy" in page.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: nothing: no such run"),
        (["empty"], "contains no run"),
        (["damaged"], "config.yaml: is damaged"),
        (["runs", "--output-dir", "mine"], "is not a gptlab report"),
        (["runs", "--output-dir", "file"], "is not a gptlab report"),
    ],
)
def test_invalid_arguments_give_a_one_line_error_and_write_nothing(
    command, run_folder: Path, monkeypatch, arguments: list[str], message: str
) -> None:
    for name in ("empty", "damaged", "mine"):
        Path(name).mkdir()
    Path("damaged/config.yaml").write_text("model: 3", encoding="utf-8")
    Path("mine/index.html").write_text("<p>my page</p>", encoding="utf-8")
    Path("file").write_text("", encoding="utf-8")
    monkeypatch.setattr(html_report, "curves_section", lambda *_: {})  # not needed, and slow
    result = command("gptlab.report.__main__", *arguments)
    assert result.code == 2 and message in result.err and "Traceback" not in result.err
    assert result.err.count("\n") == 1
    assert Path("mine/index.html").read_text(encoding="utf-8") == "<p>my page</p>"
    assert not Path("report").exists()


def test_report_replaces_an_earlier_report(command, run_folder: Path, monkeypatch) -> None:
    report(command, "latest", "--no-inspection")
    assert Path("report/curves_by_steps.png").exists()
    config = (run_folder / "config.yaml").read_text(encoding="utf-8")
    (run_folder / "config.yaml").write_text(
        config.replace(f"name: {SWEEP_NAME}", "name: another"), encoding="utf-8"
    )
    (run_folder / "metrics.csv").unlink()
    page = report(command, "latest", "--no-inspection")
    assert "another" in page.text and "Surprise" not in page.text
    assert not Path("report/curves_by_steps.png").exists()


def make_run(label: str = "a", **summary) -> LoadedRun:
    config = {"model.tied_head": False, "model.vocab_size": 10, "model.d_model": 4}
    config |= {"model.position": "learned", "model.context_length": 8}
    finished = {
        "parameters": 1000,
        "tokens": 50,
        "after": {"valid/loss": 2.0},
        "corpus": {"name": "c"},
    }
    return LoadedRun(Path(label), config, {}, finished | summary, {}, label=label)


@pytest.mark.fast
def test_text_is_never_taken_for_html(monkeypatch) -> None:
    """Every text on the page, in elements and in attributes, is escaped."""
    text = """<b>&"'<script>alert(1)</script>"""
    run = make_run(text, command=text)
    run.config |= {text: text, "data.source": text}
    run.samples = [SampleFile(text, text)]
    run.evaluation = {"results": {text: 1.0}, "corpus": text}
    run.metrics = {"valid/loss": [MetricPoint(1, 1, 1.0, 2.0)]}
    token = ShadedToken(text, 0.5, text)
    inspection = ModelInspection([token], [[text] * 4], [text], [], [], [[text, text]])
    monkeypatch.setattr(html_report, "inspect_run", lambda *_: inspection)
    page = Page(render_report([run], "steps", None, inspect_models=True)[0])
    assert "b" not in page.tags and "script" not in page.tags
    assert page.text.count(text) > 10
    attributes = [value for _, value in page.attributes if value and "alert" in value]
    assert attributes == [f"samples of {text}", text]  # aria-label, and the token's title


def test_scaling_compares_runs_on_one_corpus_above_the_best_possible_loss() -> None:
    runs = [
        make_run(
            name,
            parameters=size,
            after={"valid/loss": 1 + 100 / size, "valid/best_possible": 1.0},
        )
        for name, size in (("a", 1000), ("b", 2000), ("c", 4000))
    ]
    other = make_run("d", parameters=3000, corpus={"name": "another"})
    page, pictures = render_report([*runs, other], "steps", None, inspect_models=False)
    assert set(pictures) == {"scaling_parameters", "scaling_compute"}
    assert "Fit: 100 · parameters<sup>−1.000</sup>" in page
    assert "skipped: 1 on another corpus" in page


@pytest.mark.fast
def test_compute_counts_six_operations_per_multiplied_weight() -> None:
    assert make_run().compute == 6 * (1000 - 10 * 4 - 8 * 4) * 50
    tied = make_run()
    tied.config |= {"model.tied_head": True, "model.position": "rotary"}
    assert tied.compute == 6 * 1000 * 50
