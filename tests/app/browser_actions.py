"""Steps that browser tests share."""

from playwright.sync_api import Page, expect

VIEWS = ["generate", "learn", "inspect", "compare", "runs"]
REFRESH = "import('/state.js').then(({ state }) => state.loadRuns().then(() => state.refresh()))"


def set_number(page: Page, name: str, value: float) -> None:
    page.fill(f"#setting-{name}", str(value))


def open_view(page: Page, name: str) -> None:
    page.click(f'nav a[href="#{name}"]')
    page.wait_for_selector(f"#{name}:visible")


def generate(page: Page, max_new_tokens: int = 5) -> None:
    """Generate with the page's prompt, and wait until the sample is finished."""
    set_number(page, "max_new_tokens", max_new_tokens)
    page.press("#prompt", "Enter")
    expect(page.locator("#status")).to_contain_text("tokens in")
    page.wait_for_selector(".sample.finished")


def wait_for_learned_sample(page: Page) -> None:
    page.wait_for_selector("#learn-sample .finished")
