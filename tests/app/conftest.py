"""Fixtures for tests of the web app: one trained run of each task, one server, one browser."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.app.serving import MANY, Server, train

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, ordered_boards: None) -> Path:
    """A folder with runs `spam`, `instruct` and, the latest, `story` with three steps kept.

    They are trained once, by the first of pytest's processes to come here.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "app"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        if not (shared / "done").exists():
            train(shared, "data=toy_spam", "name=spam")
            train(shared, "data=toy_instructions", "name=instruct")
            keep = [
                "trainer.keep_step_checkpoints=true",
                "trainer.checkpoint_every=2",
                "trainer.max_steps=6",
            ]
            train(shared, "name=story", *keep)
            (shared / "done").touch()
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(shared / "runs", folder / "runs")
    return folder


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, max_new_tokens=MANY, max_queue=4)
    yield server
    server.stop()


@pytest.fixture
def start_server(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`start_server(key=value, …)` starts a server of the test's own, on a copy of the runs."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    servers: list[Server] = []

    def start(**settings: object) -> Server:
        servers.append(Server(tmp_path, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")  # Playwright's event loop blocks asyncio.run in this thread
def browser() -> Iterator["Browser"]:  # noqa: F821
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", server: Server) -> Iterator["Page"]:  # noqa: F821
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    yield from open_page(page, server)


@pytest.fixture
def phone(browser: "Browser", server: Server) -> Iterator["Page"]:  # noqa: F821
    viewport = {"width": 375, "height": 720}
    page = browser.new_page(viewport=viewport, is_mobile=True, has_touch=True)
    yield from open_page(page, server)


def open_page(page: "Page", server: Server) -> Iterator["Page"]:  # noqa: F821
    """Open the page; at the end it must have contacted no other server and logged no error."""
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()
    assert all(url.startswith(server.url + "/") for url in requests)
    assert not [error for error in errors if "the server responded with a status" not in error]
