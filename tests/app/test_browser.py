"""The page in Chromium: by keyboard, while it streams, on a phone, and for those who cannot see."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app.serving import Server, run_of

pytest_plugins = ["tests.app.serving"]

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
VIEWS = ["write", "learn", "inside", "compare", "runs"]
LONG = 100_000  # tokens: longer than any test waits


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, f"max_new_tokens={LONG}")
    yield server
    assert server.end() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, opened; in the end it must have asked no other server, and logged no error."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    yield from opened(page, server)


@pytest.fixture
def phone(browser: Browser, server: Server) -> Iterator[Page]:
    yield from opened(
        browser.new_page(viewport={"width": 375, "height": 720}, is_mobile=True, has_touch=True),
        server,
    )


def opened(page: Page, server: Server) -> Iterator[Page]:
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()
    assert all(url.startswith(server.url + "/") for url in asked)
    assert not [error for error in errors if "the server responded with a status" not in error]


def set_number(page: Page, name: str, value: float) -> None:
    page.fill(f"#set-{name}", str(value))


def view(page: Page, name: str) -> None:
    page.click(f'nav a[href="#{name}"]')
    page.wait_for_selector(f"#{name}:visible")


def test_by_keyboard_alone(page: Page) -> None:
    set_number(page, "max_new_tokens", LONG)
    set_number(page, "temperature", 0)
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("Once upon")
    page.keyboard.press("Shift+Enter")
    assert page.input_value("#prompt") == "Once upon\n"
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Writing")
    page.wait_for_selector(".token >> nth=40")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Stopped after")
    count = page.locator(".token").count()
    page.wait_for_timeout(300)
    assert page.locator(".token").count() == count < LONG
    page.focus(".sample .text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#tip")
    expect(tip).to_contain_text(re.compile(r"had .*%"))
    assert tip.locator(".rows i").count() >= 10
    assert page.locator(".token.here").count() == 1


def test_pointing_at_a_token_tells_what_it_beat(page: Page) -> None:
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    page.hover(".token >> nth=2")
    word = page.locator(".token >> nth=2").inner_text().strip()
    expect(page.locator("#tip b")).to_contain_text(word)
    numbers = page.locator("#tip .number").all_inner_texts()
    assert len(numbers) >= 10
    before = page.locator(".token >> nth=2").evaluate("e => getComputedStyle(e).backgroundColor")
    page.check("#colour")
    after = page.locator(".token >> nth=2").evaluate("e => getComputedStyle(e).backgroundColor")
    assert before != after  # a model of six steps is surprised by every token


def test_nothing_jumps_while_a_text_streams(page: Page, phone: Page) -> None:
    for each in (page, phone):
        each.evaluate(
            """() => { window.jumps = 0; new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) window.jumps += entry.value;
            }).observe({ type: "layout-shift" }); }"""
        )
        if each is phone:
            each.click("#settings-fold summary")
        set_number(each, "max_new_tokens", 150)
        each.wait_for_timeout(600)  # what follows a click is not counted for half a second
        each.evaluate("window.jumps = 0")
        each.press("#prompt", "Enter")
        each.wait_for_selector(".sample.ended", timeout=60_000)
        each.wait_for_timeout(100)
        assert each.evaluate("window.jumps") < 0.01
        assert each.locator(".token").count() > 20


def test_again_continue_and_edit(page: Page) -> None:
    set_number(page, "max_new_tokens", 10)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    first, seed = page.inner_text(".sample .text"), page.input_value("#seed")
    page.click("#again")
    expect(page.locator(".sample.ended .text")).not_to_have_text(first)
    assert int(page.input_value("#seed")) == int(seed) + 1
    page.fill("#seed", seed)
    page.press("#prompt", "Enter")
    expect(page.locator(".sample.ended .text")).to_have_text(first)
    page.click("text=Edit")
    assert page.input_value("#prompt") == first
    page.fill("#prompt", "Once upon a time, there was a")
    page.press("#prompt", "Enter")
    expect(page.locator(".sample .given")).to_have_text("Once upon a time, there was a")
    page.wait_for_selector(".sample.ended")
    set_number(page, "n", 3)
    page.press("#prompt", "Enter")
    expect(page.locator(".sample.ended")).to_have_count(3)
    tops = [page.locator(".sample").nth(i).bounding_box()["y"] for i in range(2)]
    assert tops[0] == tops[1]  # side by side


def test_the_skip_link_stays_in_the_view(page: Page) -> None:
    view(page, "runs")
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("location.hash = '#main'")
    page.wait_for_timeout(50)
    expect(page.locator("#runs")).to_be_visible()


def test_focus_stays_on_stop_and_again(page: Page) -> None:
    set_number(page, "max_new_tokens", LONG)
    set_number(page, "temperature", 0)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".token >> nth=5")
    page.press("#stop", "Enter")
    page.wait_for_selector(".sample.ended")
    assert page.evaluate("document.activeElement.id") == "stop"
    set_number(page, "max_new_tokens", 5)
    page.press("#again", "Enter")
    expect(page.locator("#status")).to_contain_text("5 tokens in")
    assert page.evaluate("document.activeElement.id") == "again"
    page.hover(".token >> nth=1")
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_a_copy_that_is_not_allowed_selects_the_text(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    set_number(page, "max_new_tokens", 5)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    page.click("text=Copy")
    expect(page.locator("#status")).to_contain_text("selected")
    selected = page.evaluate("getSelection().toString()").strip()
    assert selected == page.inner_text(".sample .text").strip()


def test_inside_takes_the_text_written_last_but_not_over_ones_own(page: Page) -> None:
    set_number(page, "max_new_tokens", 5)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    view(page, "inside")
    text = page.locator("#look-text")
    first = text.input_value()
    view(page, "write")
    page.click("#again")
    expect(page.locator("#status")).to_contain_text("5 tokens in")
    view(page, "inside")
    expect(text).not_to_have_value(first)
    text.fill("One day")
    view(page, "write")
    view(page, "inside")
    expect(text).to_have_value("One day")


def test_a_mistake_is_told_in_plain_words(page: Page) -> None:
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    before = page.inner_text(".sample .text")
    page.fill("#set-n", "20000")
    page.fill("#prompt", "Once ß")
    page.press("#prompt", "Enter")
    expect(page.locator("#trouble")).to_contain_text("vocabulary lacks")
    assert page.inner_text(".sample .text") == before
    page.fill("#set-n", "1")
    page.fill("#prompt", "Once")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    expect(page.locator("#trouble")).to_be_hidden()


def test_the_slider_goes_through_the_checkpoints(page: Page) -> None:
    view(page, "learn")
    page.fill("#learn-prompt", "Once upon a time")
    expect(page.locator("#step-words")).to_contain_text("step 6")
    page.wait_for_selector("#learned .ended")
    last = page.inner_text("#learned .text")
    page.focus("#step")
    page.keyboard.press("Home")
    expect(page.locator("#step-words")).to_contain_text("step 2")
    expect(page.locator("#learned .sample")).to_contain_text("step 2")
    page.wait_for_selector("#learned .ended")
    assert page.inner_text("#learned .text") != last
    at = [float(page.locator("#chart .dot").get_attribute("cx"))]
    page.keyboard.press("ArrowRight")
    expect(page.locator("#step-words")).to_contain_text("step 4")
    at.append(float(page.locator("#chart .dot").get_attribute("cx")))
    assert at[0] < at[1]
    assert "step 4 is marked" in page.locator("#chart svg").get_attribute("aria-label")


def test_the_curve_grows_while_a_run_trains(page: Page, folder: Path) -> None:
    view(page, "learn")
    path = page.locator("#chart .train")
    before = path.get_attribute("d")
    (run,) = (folder / "runs").glob("*_story")
    kept = (run / "metrics.csv").read_text()
    header = kept.splitlines()[0].split(",")
    row = {"step": "8", "train/loss": "1.5"}
    try:
        with (run / "metrics.csv").open("a") as file:
            file.write(",".join(row.get(name, "") for name in header) + "\n")
        expect(path).not_to_have_attribute("d", before, timeout=20_000)
    finally:
        (run / "metrics.csv").write_text(kept)


def test_news_without_a_new_checkpoint_writes_nothing_again(page: Page, folder: Path) -> None:
    view(page, "learn")
    page.wait_for_selector("#learned .ended")
    written = []
    page.on("request", lambda r: written.append(r.url) if "/api/write" in r.url else None)
    path, metrics = page.locator("#chart .train"), run_of(folder, "story") / "metrics.csv"
    before, kept = path.get_attribute("d"), metrics.read_text()
    try:
        metrics.write_text(kept + kept.splitlines()[-1].replace("6", "9", 1) + "\n")
        page.evaluate("import('/state.js').then(({ state }) => state.renew())")
        expect(path).not_to_have_attribute("d", before)
        page.wait_for_timeout(300)
        assert not written
    finally:
        metrics.write_text(kept)


def test_watch_follows_the_header_and_stops_when_left(page: Page) -> None:
    view(page, "learn")
    page.wait_for_selector("#learned .ended")
    page.select_option("#checkpoint", "step_2")
    expect(page.locator("#step-words")).to_contain_text("step 2")
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Pause")
    view(page, "runs")
    expect(page.locator("#play")).to_have_text("Play")


def test_what_was_removed_is_left_for_what_is_there(page: Page, folder: Path) -> None:
    renew = "import('/state.js').then(({ state }) => state.list().then(() => state.renew()))"
    doomed = folder / "runs" / "doomed"
    shutil.copytree(run_of(folder, "told"), doomed)
    try:
        page.evaluate(renew)
        page.select_option("#run", "doomed")
        expect(page).to_have_url(re.compile(r"\?run=doomed"))
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(page.locator("#run")).to_have_value("doomed")
        page.select_option("#checkpoint", "last")
        (doomed / "checkpoints" / "last.ckpt").unlink()
        page.evaluate(renew)
        expect(page.locator("#checkpoint")).to_have_value("best")
    finally:
        shutil.rmtree(doomed)
    page.evaluate("import('/state.js').then(({ state }) => state.renew())")
    expect(page.locator("#trouble")).to_contain_text("doomed is no longer there")
    expect(page.locator("#run")).to_have_value(run_of(folder, "story").name)


def test_a_first_run_that_is_gone_leaves_the_others(page: Page, server: Server) -> None:
    first = server.ask("/api/settings")[1] | {"run": "gone"}
    page.route("**/api/settings", lambda route: route.fulfill(json=first))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#run")).to_have_value(re.compile("_story"))
    page.route("**/api/runs", lambda route: route.fulfill(json=[]))
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#about")).to_have_text("No run yet; python train.py makes one.")


def test_inside_compare_and_runs(page: Page) -> None:
    view(page, "inside")
    page.wait_for_selector("#looks:visible")
    assert page.locator("#heads canvas").count() == 2
    assert page.locator("#neighbours tr").count() >= 3
    assert page.locator("#lens tr").count() == 4  # two layers, the embedding, and the text
    with page.expect_response("**/api/attention"):
        page.select_option("#layer", "1")
    page.wait_for_timeout(300)
    page.focus("#heads button >> nth=0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#heads button >> nth=1")).to_have_attribute("aria-checked", "true")
    view(page, "compare")
    expect(page.locator(".side select")).to_have_count(4)
    expect(page.locator(".side >> nth=1")).to_contain_text("step 2")
    page.click("text=Write both")
    expect(page.locator(".side .sample.ended")).to_have_count(2)
    texts = page.locator(".side .text").all_inner_texts()
    assert texts[0] != texts[1]
    view(page, "runs")
    expect(page.locator("#list tbody tr")).to_have_count(3)
    page.click("#about summary >> text=model")
    expect(page.locator("#about")).to_contain_text("d_model: 16")


def test_a_classifiers_page_is_another(page: Page) -> None:
    view(page, "runs")
    page.click("#list button >> text=spam")
    expect(page.locator("nav")).to_contain_text("Classify")
    expect(page.locator("#to-compare")).to_be_hidden()
    page.click("#to-write")
    page.press("#message", "Enter")
    expect(page.locator("#classes .rows span >> nth=0")).to_have_text(re.compile("spam|ham"))
    expect(page.locator("#classes")).to_contain_text("%")
    view(page, "learn")
    expect(page.locator("#learned")).to_contain_text("spam")


def test_a_model_of_instructions_is_instructed(page: Page, folder: Path) -> None:
    (run,) = (folder / "runs").glob("*_told")
    page.select_option("#run", run.name)
    expect(page.locator("#to-write")).to_have_text("Instruct")
    page.fill("#prompt", "Swap the two words.")
    page.fill("#input", "cat and king")
    with page.expect_request("**/api/write") as asked:
        page.press("#input", "Enter")
    assert asked.value.post_data_json["input"] == "cat and king"
    expect(page.locator(".sample.ended .top")).to_contain_text("Response")


def test_a_phone_scrolls_in_one_direction(phone: Page) -> None:
    phone.press("#prompt", "Enter")
    phone.wait_for_selector(".sample.ended")
    for name in VIEWS:
        view(phone, name)
        phone.wait_for_timeout(500)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, theme: str) -> None:
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.ended")
    page.check("#colour")
    page.click("summary >> text=More settings")
    for name in VIEWS:
        view(page, name)
        page.wait_for_timeout(600)
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        told = [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious]
        assert not told, (name, told)


def test_light_and_dark_are_remembered(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    dark = page.evaluate(paper)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(paper) == dark != light


def test_the_apis_own_page(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    expect(page.locator("#all")).to_contain_text("POST /v1/completions")
    expect(page.locator("#all")).to_contain_text("temperature")
