"""The routes: messages for wrong requests, the page's files, the settings form."""

import socket
from pathlib import Path

import pytest

from gptlab.app.routes import STATIC
from tests.app.serving import PROMPT, Server, find_run

BAD_REQUESTS = {
    "too many samples": ({"num_samples": 99}, "num_samples: must be less than or equal to 8"),
    "negative temperature": (
        {"sampling": {"temperature": -1}},
        "sampling.temperature: must be greater",
    ),
    "misspelled field": ({"promt": "x"}, "promt: there is no such field"),
    "number for a text": ({"prompt": 3}, "prompt: must be a valid string"),
    "half a surrogate pair": (b'{"prompt": "\\ud800"}', "prompt"),
    "NaN": (b'{"sampling": {"temperature": NaN}}', "finite number"),
    "top_p near zero": ({"sampling": {"top_p": 1e-300}}, "sampling.top_p: must be greater"),
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8"),
    "long prompt": ({"prompt": "x" * 100_001}, "at most 100000"),
    "large request": ({"prompt": "x" * 2**20}, "larger than 1,048,576 bytes"),
    "unknown characters": ({"prompt": "Once ß", "unknown": "error"}, " ß"),
    "unknown run": ({"run": "nope"}, "there is no such run"),
    "path as run": ({"run": "../runs"}, "there is no such run"),
    "path as checkpoint": ({"checkpoint": "../../secret"}, "there is no checkpoint"),
    "input without instruction": ({"prompt": "x", "input": "y"}, "input"),
    "unknown template": ({"prompt": "x", "template": "xauto"}, "template"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_gets_a_message(server: Server, name: str) -> None:
    content, message = BAD_REQUESTS[name]
    status, body = server.request("/api/generate", content)
    assert 400 <= status < 500
    assert message in body["error"] and list(body) == ["error"]


def test_page_loads_nothing_from_another_server(server: Server) -> None:
    for path in STATIC.iterdir():
        content = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in content and "https://" not in content, path.name
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = connection.recv(4096).decode()
    assert "default-src 'none'; script-src 'self'" in head


def test_openapi_describes_the_routes(server: Server) -> None:
    status, openapi = server.request("/openapi.json")
    routes = {"/api/generate", "/api/runs", "/api/attention", "/api/classify", "/v1/completions"}
    assert status == 200 and routes <= set(openapi["paths"])


def test_form_has_ranges_and_start_values_of_the_settings(server: Server) -> None:
    fields = {each["name"]: each for each in server.request("/api/settings")[1]["fields"]}
    assert fields["num_samples"]["maximum"] == 8 and not fields["num_samples"]["optional"]
    assert fields["top_p"]["value"] == 0.9 and fields["top_p"]["optional"]
    assert fields["top_k"]["value"] is None and "null" not in fields["top_k"]["help"]
    assert all(each["minimum"] < each["maximum"] and each["help"] for each in fields.values())


def test_addresses_are_never_used_as_file_paths(server: Server) -> None:
    names = ["../routes.py", "%2e%2e/routes.py", "static/index.html", "etc/passwd", "routes.py"]
    for path in [*names, "index.html/", "docs/", "static/style.css"]:
        connection = socket.create_connection(("127.0.0.1", server.port))
        with connection:
            connection.sendall(
                f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            response = b"".join(iter(lambda c=connection: c.recv(4096), b""))
        assert not response.startswith(b"HTTP/1.1 200"), path
        assert b"fastapi" not in response


def test_a_prompt_is_matched_with_the_vocabulary_of_a_loaded_model(
    server: Server, folder: Path
) -> None:
    run = find_run(folder, "story").name
    assert server.request("/api/run?name=" + run)[1]["examples"][0] == {"prompt": PROMPT}
    events = server.generate(run=run, prompt="Hello Upon a", max_new_tokens=1)
    assert events[0]["skipped"] == ["Hello"]
    request = {"run": run, "text": "Hello Upon a"}
    status, body = server.request("/api/match_prompt", request)
    assert status == 200
    assert body["parts"] == [["Hello", ""], [" Upon", " upon"], [" a", " a"]]
    request |= {"checkpoint": "step_2"}  # not loaded, and not loaded for this
    loaded = server.request("/api/match_prompt", request)[1]["parts"]
    assert loaded in ([], body["parts"])
