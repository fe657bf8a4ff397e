"""Whom the page's server refuses, and that nothing makes it hang."""

import asyncio
import importlib.util
import itertools
import json
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gptlab.app import security, streaming
from gptlab.app.idle_timeout import IdleTimeoutProtocol
from gptlab.app.job_queue import JobQueue
from gptlab.app.streaming import StreamedAnswer
from tests.app.serving import ENDLESS, PROMPT, Server, run_of

pytest_plugins = ["tests.app.serving"]


def test_only_this_machine_and_this_page_may_ask(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    for headers, allowed in [
        ({"Host": "evil.example"}, False),
        ({"Host": f"127.0.0.1.evil.example:{server.port}"}, False),
        ({"Host": "192.168.0.7"}, False),
        ({"Host": f"localhost:{server.port}"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": own}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ]:
        status, told = server.ask("/api/runs", headers=headers)
        assert (status == 200) is allowed, (headers, told)
        assert allowed or (status == 403 and told["error"])


def test_on_another_address_names_are_checked_too() -> None:
    watch = security.SecurityMiddleware(None, "0.0.0.0", 1, "a-long-secret-of-ours")
    for named in ("192.168.0.7:1", "[fe80::1]:1", "localhost"):  # cannot be pointed elsewhere
        watch.check_host(named)
    for named in ("evil.example", "", "192.168.0.7.evil.example", "a b", "[::1"):
        with pytest.raises(security.RequestRefused):
            watch.check_host(named)


def test_its_own_name_is_known_in_any_case(monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Studio.local")
    for host, named in [("0.0.0.0", "studio.LOCAL:1"), ("Lab.example", "lab.example:1")]:
        security.SecurityMiddleware(None, host, 1, "a-long-secret-of-ours").check_host(named)


def test_a_cookie_is_found_among_those_of_others() -> None:
    token = "a-long-secret-of-ours"
    watch = security.SecurityMiddleware(None, "127.0.0.1", 7, token)
    assert watch.knows_token({"cookie": f'prefs={{"a":1}}; gptlab_7={token}; b=[é'})
    assert not watch.knows_token({"cookie": f"gptlab_8={token}; gptlab_7=other; {token}"})


def test_no_address_is_a_file(server: Server) -> None:
    names = ["../server.py", "%2e%2e/server.py", "page/index.html", "etc/passwd", "server.py"]
    for path in [*names, "index.html/", "docs/", "static/style.css"]:
        connection = socket.create_connection(("127.0.0.1", server.port))
        with connection:
            connection.sendall(
                f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda c=connection: c.recv(4096), b""))
        assert not answer.startswith(b"HTTP/1.1 200"), path
        assert b"fastapi" not in answer


def test_a_token_is_needed_where_there_is_one(own: Any) -> None:
    token = "a-long-secret-of-ours"
    server = own(f"token={token}")
    assert server.ask("/")[0] == 401
    assert server.ask("/api/runs")[0] == 401
    assert server.ask("/api/runs", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.ask("/?token=wrong")[0] == 401
    assert server.ask("/api/runs", headers={"Authorization": f"Bearer {token}"})[0] == 200
    cookie = f"gptlab_{server.port}={token}"
    assert server.ask("/api/runs", headers={"Cookie": cookie})[0] == 200
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET /?token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = connection.recv(4096).decode().lower()
    assert answer.startswith("http/1.1 303") and "httponly; samesite=strict" in answer


def test_other_machines_only_with_a_token(command) -> None:
    result = command("gptlab.app.__main__", "host=0.0.0.0")
    assert result.code == 2 and "give it a token" in result.err and result.err.count("\n") == 1
    result = command("gptlab.app.__main__", "token=short")
    assert result.code == 2 and "16 to 200" in result.err


def test_a_port_in_use_and_a_missing_extra_are_one_line(command, server, folder, monkeypatch):
    named = ["open_browser=false", f"run_root={folder / 'runs'}", f"port={server.port}"]
    result = command("gptlab.app.__main__", *named)
    assert result.code == 2 and "in use" in result.err and result.err.count("\n") == 1
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "uvicorn" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    result = command("gptlab.app.__main__", *named)
    assert result.code == 2 and "pip install -e '.[app]'" in result.err


def test_who_leaves_stops_the_computing(own: Any) -> None:
    server = own("max_new_tokens=1000000", "max_queue=0")
    with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
        answer.readline()
        status, told = server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})
        assert status == 429 and "try again" in told["error"]
    ends = time.monotonic() + 5
    while server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})[0] == 429:
        assert time.monotonic() < ends
    # A search with beams shows nothing before its end, and is stopped as well.
    asked = {"prompt": PROMPT, "max_new_tokens": 20_000, "sampling": {"beams": 16}}
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        content = json.dumps(asked)
        head = "POST /api/write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        connection.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
        time.sleep(1)
    ends = time.monotonic() + 5
    while server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 1})[0] == 429:
        assert time.monotonic() < ends


def test_those_who_wait_have_their_turn(own: Any) -> None:
    server = own("max_new_tokens=1000000", "max_queue=1")
    with ThreadPoolExecutor(2) as pool:
        with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
            answer.readline()
            waits = pool.submit(server.write, prompt=PROMPT, max_new_tokens=2)
            time.sleep(0.5)
            assert not waits.done()
            assert server.ask("/api/write", {"prompt": PROMPT})[0] == 429
        assert waits.result(20)[-1]["event"] == "end"


def test_fifty_at_once_are_answered_and_memory_stays(server: Server) -> None:
    def ask(number: int) -> int:
        return server.ask("/api/write", {"prompt": PROMPT, "max_new_tokens": 20, "seed": number})[0]

    held = []
    with ThreadPoolExecutor(50) as pool:
        for _ in range(4):
            found = list(pool.map(ask, range(50)))
            assert set(found) <= {200, 429} and found.count(200) >= 5
            held.append(server.resident())
    assert held[-1] - held[0] < 30e6
    assert server.write(prompt=PROMPT, max_new_tokens=1)


def test_a_checkpoint_that_is_removed_or_written_anew(own: Any, tmp_path: Path) -> None:
    server = own("max_new_tokens=1000000")
    place = run_of(tmp_path, "story") / "checkpoints"
    with server.streaming(prompt=PROMPT, checkpoint="step_2", **ENDLESS) as answer:
        assert json.loads(answer.readline())["step"] == 2
        (place / "step_2.ckpt").unlink()
        assert all(json.loads(answer.readline())["event"] == "token" for _ in range(20))
    status, told = server.ask("/api/write", {"prompt": PROMPT, "checkpoint": "step_2"})
    assert status == 404 and "there is no checkpoint step_2" in told["error"]
    shutil.copy(place / "step_4.ckpt", place / "step_2.ckpt")
    assert server.write(prompt=PROMPT, checkpoint="step_2", max_new_tokens=1)[0]["step"] == 4
    (place / "step_4.ckpt").write_bytes(b"damaged")
    status, told = server.ask("/api/write", {"prompt": PROMPT, "checkpoint": "step_4"})
    assert status == 400 and "not a checkpoint" in told["error"]
    shutil.rmtree(place.parent)
    assert server.ask("/api/write", {"prompt": PROMPT})[0] == 404
    assert {run["name"][18:] for run in server.ask("/api/runs")[1]} == {"told", "spam"}


def test_ctrl_c_ends_it_in_the_middle_of_a_text(own: Any) -> None:
    server = own("max_new_tokens=1000000")
    with server.streaming(prompt=PROMPT, **ENDLESS) as answer:
        answer.readline()
        began = time.monotonic()
        assert server.end() == 0
    assert time.monotonic() - began < 5
    assert server.said[-1] == "stopped\n" and "Traceback" not in "".join(server.said)


def test_a_client_that_reads_nothing_gives_its_turn_away(monkeypatch) -> None:
    monkeypatch.setattr(streaming, "PATIENCE", 0.1)

    async def silent() -> dict[str, Any]:
        return await asyncio.Event().wait()

    async def full(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def scene() -> list[int]:
        queue, counted = JobQueue(0), []

        def work() -> Iterator[int]:
            for number in itertools.count():
                counted.append(number)
                yield number

        await asyncio.wait_for(StreamedAnswer(queue, work)({}, silent, full), 5)
        assert queue.inside == 0
        return [x async for batch in queue.run(lambda: iter_of(3)) for x in batch]

    assert asyncio.run(scene()) == [0, 1, 2]


def iter_of(count: int) -> Iterator[int]:
    yield from range(count)


def test_a_request_that_never_arrives_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.1)
    sent: list[dict[str, Any]] = []

    async def stalled() -> dict[str, Any]:
        return await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/api/write", "headers": [(b"host", b"localhost")]}
    asyncio.run(security.SecurityMiddleware(None, "127.0.0.1", 1, None)(scope, stalled, send))
    assert sent[0]["status"] == 408 and b"in time" in sent[1]["body"]


def test_a_connection_that_asks_nothing_is_closed(monkeypatch) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if b"slow" in scope["raw_path"]:
            await asyncio.sleep(0.8)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    async def talk(port: int, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 4)  # less than uvicorn waits
        writer.close()
        return answer

    async def scene() -> list[bytes]:
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        make = lambda: IdleTimeoutProtocol(config=config, server_state=state, app_state={})  # noqa: E731
        async with await loop.create_server(make, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            whole = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
            sent = [b"", whole[:20], whole, whole.replace(b"slow", b"") + whole[:20]]
            return await asyncio.gather(*(talk(port, each) for each in sent))

    assert [b"here" in answer for answer in asyncio.run(scene())] == [False, False, True, True]
