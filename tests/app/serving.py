"""A server of the page in a process of its own, for tests."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from gptlab.config.schema import SamplingConfig
from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from tests.conftest import ROOT

PROMPT = "Once upon a time"
ENDLESS = {"sampling": {"temperature": 0}, "max_new_tokens": 1_000_000}


class Server:
    """`python -m gptlab.app …` in a folder, on a free port."""

    def __init__(self, folder: Path, *arguments: str):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gptlab.app", "port=0", "open_browser=false", *arguments],
            cwd=folder, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.match(r"http://([^/]*):(\d+)/", line):
                break
        else:
            raise AssertionError("".join(self.said))
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://127.0.0.1:{self.port}"
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()

    def listen(self) -> None:
        self.said += self.process.stderr

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            code = self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.listener.join()
        return code

    def ask(
        self, path: str, content: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and content, as JSON where it is."""
        data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        kind = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, kind | (headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def write(self, **asked: Any) -> list[dict[str, Any]]:
        """The events of /api/write."""
        status, body = self.ask("/api/write", asked)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()] if isinstance(body, str) else [body]

    @contextmanager
    def streaming(self, **asked: Any) -> Iterator[Any]:
        """The answer of /api/write, unread; its connection is closed in the end."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        kind = {"content-type": "application/json"}
        connection.request("POST", "/api/write", json.dumps(asked), kind)
        answer = connection.getresponse()
        try:
            yield answer
        finally:
            answer.close()
            connection.close()

    def resident(self) -> int:
        """Bytes that the server holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")


def train(folder: Path, *arguments: str) -> None:
    """A run of a few steps."""
    small = ["model.n_layer=2", "model.n_head=2", "model.d_model=16", "model.d_ff=32"]
    settings = [*small, "profile=smoke", "data.max_samples=60", "data.final_tokens=400"]
    command = [sys.executable, str(ROOT / "train.py"), *settings, *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def runs_of_all_kinds(factory: pytest.TempPathFactory) -> Path:
    """A folder of the caller's own with runs `spam`, `told` and, the latest, `story`.

    They are trained once, whichever of pytest's processes comes first.
    """
    base = factory.getbasetemp()
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    common.mkdir(exist_ok=True)
    with (common / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (common / "done").exists():
            with ThreadPoolExecutor(2) as pool:
                first = [["data=toy_spam", "name=spam"], ["data=toy_instructions", "name=told"]]
                list(pool.map(lambda wanted: train(common, *wanted), first))
            train(common, "name=story", *KEEP)
            (common / "done").touch()
    folder = factory.mktemp("page")
    shutil.copytree(common / "runs", folder / "runs")
    return folder


KEEP = ["trainer.keep_step_checkpoints=true", "trainer.checkpoint_every=2", "trainer.max_steps=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all three kinds; the one that writes is the latest."""
    return runs_of_all_kinds(tmp_path_factory)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, "max_new_tokens=1000000", "max_queue=4")
    yield server
    assert server.end() == 0


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Iterator[Any]:
    """`own("key=value")`: a server of the test's own, with runs of its own."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    servers = []

    def start(*arguments: str) -> Server:
        servers.append(Server(tmp_path, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def run_of(folder: Path, name: str) -> Path:
    (found,) = (folder / "runs").glob(f"*_{name}")
    return found


def model_of(folder: Path, name: str = "story", checkpoint: str = "best") -> LoadedModel:
    return load_model(run_of(folder, name) / "checkpoints" / f"{checkpoint}.ckpt")


def texts(events: list[dict[str, Any]], n: int = 1) -> list[str]:
    tokens = [event for event in events if event["event"] == "token"]
    return ["".join(t["text"] for t in tokens if t["sample"] == i) for i in range(n)]


def by_hand(model: LoadedModel, **more: Any) -> list[Any]:
    settings = {"num_samples": 2, "max_new_tokens": 12, "seed": 5, "logprobs": True} | more
    ids = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    sampling = SamplingConfig(top_p=0.9)
    return generate_samples(
        GenerationRequest(model.net, model.tokenizer, ids, sampling, **settings)
    )
