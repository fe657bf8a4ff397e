"""Compare the page's speed with the engine's: `python -m gptlab.bench.app_latency RUN`.

Start the server on a run, request samples as a browser does, and print the seconds until the page
is served, the milliseconds to the first token, and tokens per second, next to those of the engine
that generate.py uses. With Chromium and Playwright, also print the milliseconds from the key press
to the first visible token.
"""

import argparse
import http.client
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import count_parameters
from gptlab.model.hf.pretrained import load_model
from gptlab.utils import run_dir
from gptlab.utils.errors import exit_on_error

PROMPT, NEW_TOKENS = "Once upon a time", 200


def start_server(run: str, root: str) -> tuple[subprocess.Popen[str], int, float]:
    """Return the server, its port, and the seconds until it served the page."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "gptlab.app", f"run={run}", f"run_root={root}", "port=0"]
    arguments = [*command, "open_browser=false"]
    server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert server.stderr
    for line in server.stderr:
        if line.startswith("http://"):
            port = int(line.split(":")[2].split("/")[0])
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/")
            connection.getresponse().read()
            return server, port, time.perf_counter() - start
        print(line, end="", file=sys.stderr)
    raise SystemExit(server.wait())


def measure_client(port: int, rounds: int) -> Iterator[tuple[float, float]]:
    """Yield, per sample, the seconds to the first token and the tokens per second of a client."""
    for seed in range(rounds):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        start = time.perf_counter()
        request = {"prompt": PROMPT, "max_new_tokens": NEW_TOKENS, "unknown": "skip", "seed": seed}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/api/generate", json.dumps(request), headers)
        count, first_token = 0, 0.0
        for line in connection.getresponse():
            if json.loads(line)["event"] == "token":
                first_token = first_token or time.perf_counter() - start
                count += 1
        yield first_token, count / (time.perf_counter() - start)
        connection.close()


OBSERVE_FIRST_TOKEN = """() => {
  window.firstToken = null;
  document.getElementById("samples").replaceChildren();
  const press = () => { window.pressed = performance.now(); };
  addEventListener("keydown", press, { once: true, capture: true });
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".token")) return;
    observer.disconnect();
    requestAnimationFrame(() => { window.firstToken = performance.now() - window.pressed; });
  }).observe(document.getElementById("samples"), { childList: true, subtree: true });
}"""


def measure_browser(port: int, chromium: str, rounds: int) -> Iterator[tuple[float, str]]:
    """Yield, per sample, the seconds from key press to visible token, and the page's status."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("html[data-ready]")
        for seed in range(rounds):
            page.fill("#seed", str(seed))
            page.evaluate(OBSERVE_FIRST_TOKEN)
            page.press("#prompt", "Enter")
            page.wait_for_selector(".sample.finished", timeout=120_000)
            yield page.evaluate("window.firstToken") / 1000, page.inner_text("#status")
        browser.close()


def measure_engine(run: str, root: str, rounds: int) -> Iterator[float]:
    """Yield, per sample, the tokens per second of the engine without the page."""
    model = load_model(run_dir.find_checkpoint(run, root))
    print(f"{model.path}: {count_parameters(model.net):,} parameters")
    ids = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    for seed in range(rounds):
        start = time.perf_counter()
        request = GenerationRequest(
            model.net, model.tokenizer, ids, max_new_tokens=NEW_TOKENS, seed=seed
        )
        (sample,) = generate_samples(request)
        yield len(sample.new_tokens) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--root", default="runs")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    engine = statistics.median(measure_engine(arguments.run, arguments.root, arguments.rounds))
    server, port, ready = start_server(arguments.run, arguments.root)
    try:
        first_tokens, rates = zip(*measure_client(port, arguments.rounds), strict=True)
        chromium = shutil.which("chromium") if importlib.util.find_spec("playwright") else None
        browser = list(measure_browser(port, chromium, arguments.rounds)) if chromium else []
    finally:
        server.terminate()
        server.wait()
    print(f"{ready:.1f} s until the page is served")
    first, median = 1000 * first_tokens[0], 1000 * statistics.median(first_tokens)
    print(f"{first:.0f} ms to the first token of the first sample, {median:.0f} ms in the median")
    print(f"{statistics.median(rates):.0f} tokens/s; the engine alone {engine:.0f}")
    if browser:
        median = 1000 * statistics.median(seconds for seconds, _ in browser)
        print(f"{median:.0f} ms from key press to first token, in Chromium; {browser[-1][1]}")


if __name__ == "__main__":
    with exit_on_error("app"):
        main()
