"""Helpers for tests of the web app: train small runs, run the server in this process, call it."""

import json
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from unittest import mock

from gptlab.app import main
from gptlab.config.schema import AppConfig, SamplingConfig
from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model

PROMPT = "Once upon a time"
MANY = 1_000_000  # tokens: more than any test waits for
ENDLESS = {"prompt": PROMPT, "sampling": {"temperature": 0}, "max_new_tokens": MANY}


class Client:
    """Requests to a server on this machine."""

    def __init__(self, port: int):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def request(
        self, path: str, content: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the content, parsed if it is JSON."""
        data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        media_type = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, media_type | (headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def generate(self, **request: Any) -> list[dict[str, Any]]:
        """Return the events of /api/generate."""
        status, body = self.request("/api/generate", request)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    @contextmanager
    def streaming(self, **request: Any) -> Iterator[HTTPResponse]:
        """The unread response of /api/generate; its connection is closed at the end."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        media_type = {"content-type": "application/json"}
        connection.request("POST", "/api/generate", json.dumps(request), media_type)
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
            connection.close()


class Server(Client):
    """The web app on a free port, in a thread of this process."""

    def __init__(self, folder: Path, **settings: Any):
        sampling = SamplingConfig(top_p=0.9)
        root = str(folder / "runs")
        config = AppConfig(run_root=root, port=0, accelerator="cpu", sampling=sampling, **settings)
        self.listener = main.open_socket(config)
        super().__init__(self.listener.getsockname()[1])
        self.server = main.make_server(config, self.port, main.open_registry(config))
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Do what Ctrl-C does, and check that the server ends."""
        self.server.handle_exit(signal.SIGINT, None)
        self.thread.join(20)
        self.listener.close()
        assert not self.thread.is_alive()


def train(folder: Path, *arguments: str) -> None:
    """Train a small run for a few steps, in this process."""
    import train as command

    size = ["model.n_layer=2", "model.n_head=2", "model.d_model=16", "model.d_ff=32"]
    settings = [*size, "profile=smoke", "data.max_samples=60", "data.final_tokens=400"]
    with chdir(folder), mock.patch.object(sys, "argv", ["train.py", *settings, *arguments]):
        command.main()


def find_run(folder: Path, name: str) -> Path:
    (run,) = (folder / "runs").glob(f"*_{name}")
    return run


def load(folder: Path, name: str = "story", checkpoint: str = "best") -> LoadedModel:
    return load_model(find_run(folder, name) / "checkpoints" / f"{checkpoint}.ckpt")


def token_events(events: list[dict[str, Any]], sample: int = 0) -> list[dict[str, Any]]:
    return [each for each in events if each["event"] == "token" and each["sample"] == sample]


def sample_text(events: list[dict[str, Any]], sample: int = 0) -> str:
    return "".join(token["text"] for token in token_events(events, sample))


def generate_directly(model: LoadedModel, **settings: Any) -> list[Sample]:
    """Generate with the engine what the server should generate."""
    ids = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    defaults = {"num_samples": 2, "max_new_tokens": 12, "seed": 5, "logprobs": True}
    sampling = {"sampling": SamplingConfig(top_p=0.9)}
    return generate_samples(
        GenerationRequest(model.net, model.tokenizer, ids, **(sampling | defaults | settings))
    )
