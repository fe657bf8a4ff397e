"""The Generate view in Chromium: by keyboard, while it streams, for each task."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.browser_actions import generate, open_view, set_number
from tests.app.serving import MANY, find_run

pytestmark = pytest.mark.browser


def test_generating_stopping_and_reading_tokens_by_keyboard(page: Page) -> None:
    set_number(page, "max_new_tokens", MANY)
    set_number(page, "temperature", 0)
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("Once upon")
    page.keyboard.press("Shift+Enter")
    assert page.input_value("#prompt") == "Once upon\n"
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Generating")
    page.wait_for_selector(".token >> nth=40")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Stopped after")
    count = page.locator(".token").count()
    page.wait_for_timeout(300)
    assert page.locator(".token").count() == count < MANY
    page.focus(".sample .text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tooltip = page.locator("#tooltip")
    expect(tooltip).to_contain_text(re.compile(r"had .*%"))
    assert tooltip.locator(".rows i").count() >= 10
    assert page.locator(".token.current").count() == 1


def test_pointing_at_a_token_shows_its_alternatives(page: Page) -> None:
    generate(page, 10)
    token = page.locator(".token >> nth=2")
    token.hover()
    expect(page.locator("#tooltip b")).to_contain_text(token.inner_text().strip())
    assert len(page.locator("#tooltip .number").all_inner_texts()) >= 10
    background = "e => getComputedStyle(e).backgroundColor"
    before = token.evaluate(background)
    page.check("#color-surprise")
    assert token.evaluate(background) != before  # after six steps every token is a surprise


def test_layout_is_stable_while_text_streams(page: Page, phone: Page) -> None:
    for each in (page, phone):
        each.evaluate(
            # The text grows, and the footer below it moves down: only other shifts count.
            """() => {
                const grows = ({ node }) => !node || node.nodeName === "FOOTER"
                    || (node.nodeType === Node.TEXT_NODE ? node.parentElement : node)
                        .closest(".sample .text");
                window.shift = 0;
                new PerformanceObserver((list) => {
                    for (const entry of list.getEntries())
                        if (!entry.sources.every(grows)) window.shift += entry.value;
                }).observe({ type: "layout-shift" });
            }"""
        )
        if each is phone:
            each.click("#settings-details summary")
        set_number(each, "max_new_tokens", 150)
        each.wait_for_timeout(600)  # shifts within half a second of input are not counted
        each.evaluate("window.shift = 0")
        each.press("#prompt", "Enter")
        each.wait_for_selector(".sample.finished", timeout=60_000)
        each.wait_for_timeout(100)
        assert each.evaluate("window.shift") < 0.01
        assert each.locator(".token").count() > 20


def test_next_seed_edit_and_several_samples(page: Page) -> None:
    generate(page, 10)
    text, seed = page.inner_text(".sample .text"), page.input_value("#seed")
    page.click("#next-seed")
    expect(page.locator(".sample.finished .text")).not_to_have_text(text)
    assert int(page.input_value("#seed")) == int(seed) + 1
    page.fill("#seed", seed)
    page.press("#prompt", "Enter")
    expect(page.locator(".sample.finished .text")).to_have_text(text)
    page.click("text=Edit")
    assert page.input_value("#prompt") == text
    page.fill("#prompt", "Once upon a time, there was a")
    page.press("#prompt", "Enter")
    expect(page.locator(".sample .prompt")).to_have_text("Once upon a time, there was a")
    page.wait_for_selector(".sample.finished")
    set_number(page, "num_samples", 3)
    page.press("#prompt", "Enter")
    expect(page.locator(".sample.finished")).to_have_count(3)
    tops = [page.locator(".sample").nth(i).bounding_box()["y"] for i in range(2)]
    assert tops[0] == tops[1]  # side by side


def test_continue_starts_from_the_whole_text(page: Page) -> None:
    generate(page)
    text = page.inner_text(".sample .text").replace("\n", "")
    with page.expect_request("**/api/generate") as request:
        page.click("text=Continue")
    content = request.value.post_data_json
    assert content["prompt"].replace("\n", "") == text and content["template"] == "none"
    page.wait_for_selector(".sample.finished")


def test_focus_stays_on_stop_and_next_seed(page: Page) -> None:
    set_number(page, "max_new_tokens", MANY)
    set_number(page, "temperature", 0)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".token >> nth=5")
    page.press("#stop", "Enter")
    page.wait_for_selector(".sample.finished")
    assert page.evaluate("document.activeElement.id") == "stop"
    set_number(page, "max_new_tokens", 5)
    page.press("#next-seed", "Enter")
    expect(page.locator("#status")).to_contain_text("5 tokens in")
    assert page.evaluate("document.activeElement.id") == "next-seed"
    page.hover(".token >> nth=1")
    expect(page.locator("#tooltip")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#tooltip")).to_be_hidden()


def test_copying_without_permission_selects_the_text(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    generate(page)
    page.click("text=Copy")
    expect(page.locator("#status")).to_contain_text("selected")
    selected = page.evaluate("getSelection().toString()").strip()
    assert selected == page.inner_text(".sample .text").strip()


def test_refused_request_shows_its_error_and_keeps_the_sample(page: Page) -> None:
    generate(page)
    text = page.inner_text(".sample .text")
    page.fill("#setting-num_samples", "20000")  # clamped to the maximum
    page.fill("#prompt", "Once ß")
    page.click("summary >> text=More settings")
    page.check("#refuse-unknown")
    page.press("#prompt", "Enter")
    expect(page.locator("#error")).to_contain_text("ß")
    assert page.inner_text(".sample .text") == text
    page.fill("#setting-num_samples", "1")
    page.fill("#prompt", "Once")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".sample.finished")
    expect(page.locator("#error")).to_be_hidden()


def test_classifier_has_a_view_of_its_own(page: Page) -> None:
    open_view(page, "runs")
    page.click("#runs-table button >> text=spam")
    expect(page.locator("nav")).to_contain_text("Classify")
    expect(page.locator("#nav-compare")).to_be_hidden()
    page.click("#nav-generate")
    page.press("#message", "Enter")
    expect(page.locator("#classes .rows span >> nth=0")).to_have_text(re.compile("spam|ham"))
    expect(page.locator("#classes")).to_contain_text("%")
    open_view(page, "learn")
    expect(page.locator("#learn-sample")).to_contain_text("spam")


def test_instruction_has_an_input(page: Page, folder: Path) -> None:
    page.select_option("#run", find_run(folder, "instruct").name)
    expect(page.locator("#nav-generate")).to_have_text("Instruct")
    page.fill("#prompt", "Swap the two words.")
    page.fill("#input", "cat and king")
    with page.expect_request("**/api/generate") as request:
        page.press("#input", "Enter")
    assert request.value.post_data_json["input"] == "cat and king"
    expect(page.locator(".sample.finished .top")).to_contain_text("Response")


def test_unknown_words_are_marked_and_skipped(page: Page) -> None:
    generate(page)
    marks = page.locator("#prompt + .prompt-match")
    expect(marks).to_be_hidden()
    page.fill("#prompt", "Hello Upon a pizza")
    expect(marks.locator("s")).to_have_text(["Hello", " pizza"])
    expect(marks.get_by_role("status")).to_contain_text("Hello, pizza. Read as: upon")
    generate(page)
    expect(page.locator("#error")).to_be_hidden()
    page.fill("#prompt", "Once upon")
    expect(marks).to_be_hidden()


def test_examples_fill_the_prompt_of_their_run(page: Page, folder: Path) -> None:
    expect(page.locator("#prompt")).to_have_value("Once upon a time")
    page.select_option("#run", find_run(folder, "instruct").name)
    expect(page.locator("#prompt")).not_to_have_value("Once upon a time")
    page.fill("#prompt", "my own words")
    page.select_option("#run", find_run(folder, "story").name)
    expect(page.locator("#nav-generate")).to_have_text("Generate")
    expect(page.locator("#prompt")).to_have_value("my own words")
    details = [{"prompt": "One day"}, {"prompt": "The fox", "input": "red"}]
    page.evaluate(
        """async (examples) => {
            const { state } = await import('/state.js');
            state.details = { ...state.details, examples };
            state.dispatchEvent(new Event('model'));
        }""",
        details,
    )
    page.click("#examples button >> text=The fox")
    expect(page.locator("#prompt")).to_have_value("The fox")
    assert page.evaluate("document.activeElement.id") == "prompt"
