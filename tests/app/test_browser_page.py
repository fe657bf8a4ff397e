"""The whole page in Chromium: accessibility, phones, themes, the API's documentation."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.app.browser_actions import VIEWS, generate, open_view, wait_for_learned_sample
from tests.app.serving import Server

pytestmark = pytest.mark.browser


def wait_for_content(page: Page, view: str) -> None:
    if view == "learn":
        wait_for_learned_sample(page)
    if view == "inspect":
        page.wait_for_selector("#inspect-results:visible")
    if view == "compare":
        expect(page.locator(".side .chart svg")).to_have_count(2)


def test_skip_link_leads_to_the_content_of_the_view(page: Page) -> None:
    open_view(page, "runs")
    page.focus(".skip-link")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("location.hash = '#main'")
    page.wait_for_timeout(50)
    expect(page.locator("#runs")).to_be_visible()


def test_phone_never_scrolls_sideways(phone: Page) -> None:
    phone.press("#prompt", "Enter")
    phone.wait_for_selector(".sample.finished")
    for view in VIEWS:
        open_view(phone, view)
        wait_for_content(phone, view)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_accessibility_problem(page: Page, theme: str) -> None:
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    generate(page, 50)
    page.check("#color-surprise")
    page.click("summary >> text=More settings")
    for view in VIEWS:
        open_view(page, view)
        wait_for_content(page, view)
        violations = Axe().run(page).response["violations"]
        serious = [v for v in violations if v["impact"] in ("serious", "critical")]
        details = [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious]
        assert not details, (view, details)


def test_theme_is_remembered(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    dark = page.evaluate(background)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(background) == dark != light


def test_docs_page_lists_routes_and_fields(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    expect(page.locator("#routes")).to_contain_text("POST /v1/completions")
    expect(page.locator("#routes")).to_contain_text("temperature")
