"""Which requests are refused, and that a slow client cannot block the server."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.requests import HTTPConnection

from gptlab.app import security
from gptlab.app.security import IdleTimeoutProtocol, RequestRefused, SecurityMiddleware
from tests.app.serving import Server

TOKEN = "a-secret-token-of-ours"


async def unused_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the request must not reach the app")


def test_only_this_machine_and_this_page_may_send_requests(server: Server) -> None:
    own_origin = f"http://127.0.0.1:{server.port}"
    for headers, allowed in [
        ({"Host": "evil.example"}, False),
        ({"Host": f"127.0.0.1.evil.example:{server.port}"}, False),
        ({"Host": "192.168.0.7"}, False),
        ({"Host": f"localhost:{server.port}"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": own_origin}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ]:
        status, body = server.request("/api/runs", headers=headers)
        assert (status == 200) is allowed, (headers, body)
        assert allowed or (status == 403 and body["error"])


@pytest.mark.fast
def test_on_an_open_address_any_ip_address_is_valid_but_not_any_name() -> None:
    middleware = SecurityMiddleware(unused_app, "0.0.0.0", 1, TOKEN)
    for host in ("192.168.0.7:1", "[fe80::1]:1", "localhost"):
        middleware.check_host(host)
    for host in ("evil.example", "", "192.168.0.7.evil.example", "a b", "[::1"):
        with pytest.raises(RequestRefused):
            middleware.check_host(host)


@pytest.mark.fast
def test_own_name_is_valid_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Studio.local")
    for host, header in [("0.0.0.0", "studio.LOCAL:1"), ("Lab.example", "lab.example:1")]:
        SecurityMiddleware(unused_app, host, 1, TOKEN).check_host(header)


@pytest.mark.fast
def test_cookie_is_found_among_others() -> None:
    middleware = SecurityMiddleware(unused_app, "127.0.0.1", 7, TOKEN)

    def has_token(cookies: str) -> bool:
        headers = [(b"cookie", cookies.encode("latin-1"))]
        return middleware.has_token(HTTPConnection({"type": "http", "headers": headers}))

    assert has_token(f'prefs={{"a":1}}; gptlab_7={TOKEN}; b=[é')
    assert not has_token(f"gptlab_8={TOKEN}; gptlab_7=other; {TOKEN}")


def test_token_is_required_if_there_is_one(start_server: Callable[..., Server]) -> None:
    server = start_server(token=TOKEN)
    assert server.request("/")[0] == 401
    assert server.request("/api/runs")[0] == 401
    assert server.request("/api/runs", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.request("/?token=wrong")[0] == 401
    assert server.request("/api/runs", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
    cookie = f"gptlab_{server.port}={TOKEN}"
    assert server.request("/api/runs", headers={"Cookie": cookie})[0] == 200
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        response = connection.recv(4096).decode().lower()
    assert response.startswith("http/1.1 303") and "\r\nlocation: /\r\n" in response
    (set_cookie,) = (line for line in response.splitlines() if line.startswith("set-cookie"))
    assert {"httponly", "samesite=strict", "path=/"} <= set(set_cookie.split("; "))


@pytest.mark.fast
def test_request_that_never_arrives_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "REQUEST_TIMEOUT", 0.1)
    messages: list[dict[str, Any]] = []

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {"type": "http", "path": "/api/generate", "headers": [(b"host", b"localhost")]}
    asyncio.run(SecurityMiddleware(unused_app, "127.0.0.1", 1, None)(scope, receive, send))
    assert messages[0]["status"] == 408 and b"in time" in messages[1]["body"]
    assert (b"x-content-type-options", b"nosniff") in messages[0]["headers"]


def test_idle_connection_is_closed_but_not_a_slow_response(monkeypatch) -> None:
    monkeypatch.setattr(security, "REQUEST_TIMEOUT", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if b"slow" in scope["raw_path"]:
            await asyncio.sleep(0.8)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"content"})

    async def send_bytes(port: int, content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        response = await asyncio.wait_for(reader.read(), 4)  # less than uvicorn's own timeout
        writer.close()
        return response

    async def run() -> list[bytes]:
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        config.load()
        state = uvicorn.server.ServerState()
        protocol = lambda: IdleTimeoutProtocol(config=config, server_state=state, app_state={})  # noqa: E731
        loop = asyncio.get_running_loop()
        async with await loop.create_server(protocol, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
            requests = [b"", slow[:20], slow, slow.replace(b"slow", b"") + slow[:20]]
            return await asyncio.gather(*(send_bytes(port, each) for each in requests))

    assert [b"content" in response for response in asyncio.run(run())] == [False, False, True, True]
