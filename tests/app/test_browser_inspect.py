"""The views Inspect, Compare and Runs in Chromium."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.app.browser_actions import generate, open_view

pytestmark = pytest.mark.browser


def test_inspecting_draws_heads_layers_and_nearest_tokens(page: Page) -> None:
    open_view(page, "inspect")
    page.wait_for_selector("#inspect-results:visible")
    assert page.locator("#heads canvas").count() == 2
    assert page.locator("#nearest-tokens tr").count() >= 3
    assert page.locator("#logit-lens tr").count() == 4  # two layers, the embedding, the text
    heads = page.locator("#heads canvas >> nth=0").element_handle()
    with page.expect_response("**/api/attention"):
        page.select_option("#layer", "1")
    page.wait_for_function("canvas => !canvas.isConnected", arg=heads)  # layer 1 is drawn
    page.focus("#heads button >> nth=0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#heads button >> nth=1")).to_have_attribute("aria-checked", "true")


def test_text_is_taken_from_generate_unless_the_reader_typed_one(page: Page) -> None:
    generate(page)
    open_view(page, "inspect")
    text = page.locator("#inspect-text")
    first = text.input_value()
    open_view(page, "generate")
    page.click("#next-seed")
    expect(page.locator("#status")).to_contain_text("5 tokens in")
    open_view(page, "inspect")
    expect(text).not_to_have_value(first)
    text.fill("One day")
    open_view(page, "generate")
    open_view(page, "inspect")
    expect(text).to_have_value("One day")


def test_comparing_generates_with_two_checkpoints(page: Page) -> None:
    open_view(page, "compare")
    expect(page.locator(".side select")).to_have_count(4)
    expect(page.locator(".side >> nth=1")).to_contain_text("step 2")
    page.click("text=Generate both")
    expect(page.locator(".side .sample.finished")).to_have_count(2)
    texts = page.locator(".side .text").all_inner_texts()
    assert texts[0] != texts[1]


def test_runs_are_listed_with_their_results_and_configuration(page: Page) -> None:
    open_view(page, "runs")
    expect(page.locator("#runs-table tbody tr")).to_have_count(3)
    expect(page.locator("#run-results tr", has_text="valid/loss")).to_contain_text(
        re.compile(r"\d\.\d{4}")
    )
    page.click("#run-details summary >> text=model")
    expect(page.locator("#run-details")).to_contain_text("d_model: 16")
