"""The view Watch it learn in Chromium: checkpoints, curves that grow, runs that disappear."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.browser_actions import REFRESH, open_view, wait_for_learned_sample
from tests.app.serving import PROMPT, Server, find_run

pytestmark = pytest.mark.browser


@pytest.fixture
def metrics(folder: Path) -> Iterator[Path]:
    """The metrics.csv of the run on the page, restored after the test."""
    path = find_run(folder, "story") / "metrics.csv"
    content = path.read_text(encoding="utf-8")
    yield path
    path.write_text(content, encoding="utf-8")


def test_slider_selects_a_checkpoint_and_its_loss(page: Page) -> None:
    open_view(page, "learn")
    page.fill("#learn-prompt", PROMPT)
    expect(page.locator("#step-label")).to_contain_text("step 6")
    wait_for_learned_sample(page)
    last = page.inner_text("#learn-sample .text")
    page.focus("#step-slider")
    page.keyboard.press("Home")
    expect(page.locator("#step-label")).to_contain_text("step 2")
    expect(page.locator("#learn-sample .sample")).to_contain_text("step 2")
    wait_for_learned_sample(page)
    assert page.inner_text("#learn-sample .text") != last
    marker = page.locator("#loss-chart .current-loss")
    positions = [float(marker.get_attribute("cx"))]
    page.keyboard.press("ArrowRight")
    expect(page.locator("#step-label")).to_contain_text("step 4")
    positions.append(float(marker.get_attribute("cx")))
    assert positions[0] < positions[1]
    assert "step 4 is marked" in page.locator("#loss-chart svg").get_attribute("aria-label")


def test_curve_grows_without_a_reload(page: Page, metrics: Path) -> None:
    open_view(page, "learn")
    path = page.locator("#loss-chart .train")
    before = path.get_attribute("d")
    header = metrics.read_text(encoding="utf-8").splitlines()[0].split(",")
    row = {"step": "8", "train/loss": "1.5"}
    with metrics.open("a", encoding="utf-8") as file:
        file.write(",".join(row.get(name, "") for name in header) + "\n")
    expect(path).not_to_have_attribute("d", before, timeout=20_000)


def test_progress_without_a_new_checkpoint_generates_nothing(page: Page, metrics: Path) -> None:
    open_view(page, "learn")
    wait_for_learned_sample(page)
    requests = []
    page.on("request", lambda r: requests.append(r.url) if "/api/generate" in r.url else None)
    path, content = page.locator("#loss-chart .train"), metrics.read_text(encoding="utf-8")
    before = path.get_attribute("d")
    metrics.write_text(
        content + content.splitlines()[-1].replace("6", "9", 1) + "\n", encoding="utf-8"
    )
    page.evaluate(REFRESH)
    expect(path).not_to_have_attribute("d", before)
    page.wait_for_timeout(300)
    assert not requests


def test_header_selects_the_checkpoint_and_leaving_pauses(page: Page) -> None:
    open_view(page, "learn")
    wait_for_learned_sample(page)
    page.select_option("#checkpoint", "step_2")
    expect(page.locator("#step-label")).to_contain_text("step 2")
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Pause")
    open_view(page, "runs")
    expect(page.locator("#play")).to_have_text("Play")


def test_deleted_run_and_checkpoint_are_replaced_by_existing_ones(page: Page, folder: Path) -> None:
    deleted = folder / "runs" / "deleted"
    shutil.copytree(find_run(folder, "instruct"), deleted)
    try:
        page.evaluate(REFRESH)
        page.select_option("#run", "deleted")
        expect(page).to_have_url(re.compile(r"\?run=deleted"))
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(page.locator("#run")).to_have_value("deleted")
        page.select_option("#checkpoint", "last")
        (deleted / "checkpoints" / "last.ckpt").unlink()
        page.evaluate(REFRESH)
        expect(page.locator("#checkpoint")).to_have_value("best")
    finally:
        shutil.rmtree(deleted)
    page.evaluate("import('/state.js').then(({ state }) => state.refresh())")
    expect(page.locator("#error")).to_contain_text("The run deleted no longer exists")
    expect(page.locator("#run")).to_have_value(find_run(folder, "story").name)


def test_missing_default_run_and_no_runs_at_all(page: Page, server: Server) -> None:
    settings = server.request("/api/settings")[1] | {"run": "gone"}
    page.route("**/api/settings", lambda route: route.fulfill(json=settings))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#run")).to_have_value(re.compile("_story"))
    page.route("**/api/runs", lambda route: route.fulfill(json=[]))
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    expected = "There are no runs yet. Train one with gptlab train."
    expect(page.locator("#run-details")).to_have_text(expected)
