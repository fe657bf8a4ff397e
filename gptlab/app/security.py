"""Check who sends a request, before a request is handled.

Other websites must not reach this server through the user's browser: the Host header must name this
machine (against DNS rebinding), and a page's request must come from this server's own page.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gptlab.config.validation import is_loopback

MAX_BODY = 2**20  # bytes
REQUEST_TIMEOUT = 10.0  # seconds in which a request must arrive
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RequestRefused(Exception):
    """Ends a request with an HTTP status and a message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class SecurityMiddleware:
    """Check host, origin, token and size of a request, and add security headers to the response.

    Starlette's TrustedHostMiddleware takes a list of names; here any IP address is valid on an open
    address, because only names can be rebound.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, token: str | None):
        self.app, self.host, self.token = app, host, token
        self.cookie = f"gptlab_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # startup and shutdown
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        app: ASGIApp
        try:
            connection = HTTPConnection(scope)
            self.check_host(connection.headers.get("host", ""))
            check_origin(connection.headers)
            if self.token and not self.has_token(connection):
                app = self.log_in(connection)
            else:
                body = await asyncio.wait_for(read_body(receive), REQUEST_TIMEOUT)
                app, receive = self.app, replay_body(body, receive)
        except TimeoutError:
            app = refusal_response(408, "the request did not arrive in time")
        except RequestRefused as error:
            app = refusal_response(error.status, str(error))
        await app(scope, receive, send_with_headers)

    def check_host(self, host_header: str) -> None:
        """Raise RequestRefused for a name that is not this server's."""
        name = parse_hostname(host_header)
        own_names = {"localhost", self.host.lower(), socket.gethostname().lower()}
        is_own_name = is_ip_address(name) or name in own_names
        if not (is_loopback(name) if is_loopback(self.host) else is_own_name):
            raise RequestRefused(
                403, f"{name[:100]!r} is not the name of this server; open it by its own address"
            )

    def has_token(self, connection: HTTPConnection) -> bool:
        bearer = connection.headers.get("authorization", "").removeprefix("Bearer ")
        return self.is_token(bearer) or self.is_token(connection.cookies.get(self.cookie, ""))

    def is_token(self, candidate: str) -> bool:
        return hmac.compare_digest(candidate.encode(), (self.token or "").encode())

    def log_in(self, connection: HTTPConnection) -> ASGIApp:
        """Turn `/?token=…` into a cookie and an address without it; raises RequestRefused."""
        query = parse_qs(connection.scope["query_string"].decode("latin-1"))
        token = query.get("token", [""])[0]
        if connection.scope["path"] != "/" or not self.is_token(token):
            raise RequestRefused(
                401,
                "this page needs a token: open the address that the terminal shows, or send the "
                "header Authorization: Bearer TOKEN",
            )
        response = RedirectResponse("/", 303)
        response.set_cookie(self.cookie, token, httponly=True, samesite="strict")
        return response


def check_origin(headers: Headers) -> None:
    """Refuse another site's page (RequestRefused); programs other than browsers send no origin."""
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    foreign_origin = origin is not None and urlsplit(origin).netloc.lower() != host
    foreign_site = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    navigation = headers.get("sec-fetch-mode") == "navigate"  # following a link is harmless
    if foreign_origin or (foreign_site and not navigation):
        raise RequestRefused(403, "requests from another site's page are refused")


async def read_body(receive: Receive) -> bytes:
    """Return the whole body; raises RequestRefused if it is too large or not UTF-8.

    Read and discard what exceeds MAX_BODY: a client reads the response only after sending all.
    """
    body, size, more = b"", 0, True
    while more and size <= 16 * MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestRefused(400, "the request is incomplete")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        body = body + chunk if size <= MAX_BODY else b""
    if size > MAX_BODY:
        raise RequestRefused(413, f"the request is larger than {MAX_BODY:,} bytes")
    try:
        body.decode()
    except UnicodeDecodeError:
        raise RequestRefused(400, "the request is not UTF-8 text") from None
    return body


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once, then the messages after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def parse_hostname(host_header: str) -> str:
    """Return `localhost` for `localhost:8642`, `::1` for `[::1]:8642`, or nothing if invalid."""
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def is_ip_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def refusal_response(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, {"connection": "close"})


class IdleTimeoutProtocol(H11Protocol):
    """Close a connection on which no request's headers arrive in time.

    uvicorn limits only the wait after a response; SecurityMiddleware limits the body's time.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.expect_request(None)

    def on_response_complete(self) -> None:
        self.expect_request(self.cycle)  # before super() starts a pipelined request
        super().on_response_complete()

    def expect_request(self, previous: Any) -> None:
        self.loop.call_later(REQUEST_TIMEOUT, self.close_if_idle, previous)

    def close_if_idle(self, previous: Any) -> None:
        if self.cycle is previous:
            self.transport.close()
