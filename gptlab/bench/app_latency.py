"""The page beside the engine alone: `python -m gptlab.bench.app_latency RUN`.

Starts the server on a run, asks as a browser does, and prints: seconds until the page is served,
milliseconds to the first token, and tokens a second, beside those of generate.py's loop; and, where
there is Chromium, milliseconds from the key to the first token drawn.
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

ASKED = {"prompt": "Once upon a time", "max_new_tokens": 200, "unknown": "skip"}


def served(run: str, root: str) -> tuple[subprocess.Popen[str], int, float]:
    """The server, its port, and the seconds until it answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "gptlab.app", f"run={run}", f"run_root={root}", "port=0"]
    server = subprocess.Popen([*command, "open_browser=false"], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if line.startswith("http://"):
            port = int(line.split(":")[2].split("/")[0])
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/")
            connection.getresponse().read()
            return server, port, time.perf_counter() - began
        print(line, end="", file=sys.stderr)
    raise SystemExit(server.wait())


def texts(port: int, rounds: int) -> Iterator[tuple[float, float]]:
    """Of each text: seconds to its first token, and tokens a second, as a client sees them."""
    for seed in range(rounds):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        began = time.perf_counter()
        content = json.dumps(ASKED | {"seed": seed})
        kind = {"Content-Type": "application/json"}
        connection.request("POST", "/api/write", content, kind)
        answer = connection.getresponse()
        count, first = 0, 0.0
        for line in answer:
            if json.loads(line)["event"] == "token":
                first = first or time.perf_counter() - began
                count += 1
        yield first, count / (time.perf_counter() - began)
        connection.close()


NOTE_FIRST = """() => {
  window.first = null;
  document.getElementById("samples").replaceChildren();
  const press = () => { window.pressed = performance.now(); };
  addEventListener("keydown", press, { once: true, capture: true });
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".token")) return;
    observer.disconnect();
    requestAnimationFrame(() => { window.first = performance.now() - window.pressed; });
  }).observe(document.getElementById("samples"), { childList: true, subtree: true });
}"""


def seen(port: int, chromium: str, rounds: int) -> Iterator[tuple[float, str]]:
    """In a browser: seconds from the key to the first token drawn, and the page's own figures."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("html[data-ready]")
        for seed in range(rounds):
            page.fill("#seed", str(seed))
            page.evaluate(NOTE_FIRST)
            page.press("#prompt", "Enter")
            page.wait_for_selector(".sample.ended", timeout=120_000)
            yield page.evaluate("window.first") / 1000, page.inner_text("#status")
        browser.close()


def alone(run: str, root: str, rounds: int) -> Iterator[float]:
    """Tokens a second of the engine, without a page."""
    model = load_model(run_dir.find_checkpoint(run, root))
    print(f"{model.path}: {count_parameters(model.net):,} parameters")
    ids = encode_prompt(model.tokenizer, ASKED["prompt"], model.eot_first)
    for seed in range(rounds):
        began = time.perf_counter()
        request = GenerationRequest(
            model.net, model.tokenizer, ids, max_new_tokens=ASKED["max_new_tokens"], seed=seed
        )
        (sample,) = generate_samples(request)
        yield len(sample.new_tokens) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--root", default="runs")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    engine = statistics.median(alone(given.run, given.root, given.rounds))
    server, port, ready = served(given.run, given.root)
    try:
        firsts, rates = zip(*texts(port, given.rounds), strict=True)
        chromium = shutil.which("chromium") if importlib.util.find_spec("playwright") else None
        drawn = list(seen(port, chromium, given.rounds)) if chromium else []
    finally:
        server.terminate()
        server.wait()
    print(f"{ready:.1f} s until the page is served")
    first, usual = 1000 * firsts[0], 1000 * statistics.median(firsts)
    print(f"{first:.0f} ms to the very first token, {usual:.0f} ms in the median")
    print(f"{statistics.median(rates):.0f} tokens/s; the engine alone {engine:.0f}")
    if drawn:
        usual = 1000 * statistics.median(seconds for seconds, _ in drawn)
        print(f"{usual:.0f} ms from the key to the first token drawn, in Chromium; {drawn[-1][1]}")


if __name__ == "__main__":
    main()
