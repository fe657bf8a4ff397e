"""Who may ask at all: checked before anything of a request is looked at.

A page of another site cannot use this server through the browser of the person who runs it: the
name it was reached by must be the machine's own (or a foreign name could be pointed at it, DNS
rebinding), and a request from a page must come from this one.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gptlab.config.validation import is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST = 2**20  # bytes of a request
PATIENCE = 10.0  # seconds in which a request must have arrived
POLICY = {
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
    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class SecurityMiddleware:
    """Around the application. `token`: what a client must know, if anything."""

    def __init__(self, app: Callable[..., Any], host: str, port: int, token: str | None):
        self.app = app
        self.host = host
        self.token = token
        self.cookie = f"gptlab_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # uvicorn's start and end
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *as_bytes(POLICY)]
            await send(message)

        try:
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            self.check_host(headers.get("host", ""))
            check_origin(headers)
            if self.token and not self.knows_token(headers):
                await self.let_in(scope, send_guarded)
                return
            body = await asyncio.wait_for(read(receive), PATIENCE)
        except TimeoutError:
            await answer(send_guarded, 408, "the request did not arrive in time")
        except RequestRefused as why:
            await answer(send_guarded, why.status, str(why))
        else:
            await self.app(scope, replayed(body, receive), send_guarded)

    def check_host(self, named: str) -> None:
        """Raises Refused for a name that is not this server's."""
        name = hostname(named)
        if is_loopback(self.host):
            known = is_loopback(name)
        else:  # an address cannot be pointed elsewhere, a name can
            own = {"localhost", self.host.lower(), socket.gethostname().lower()}
            known = is_address(name) or name in own
        if not known:
            raise RequestRefused(
                403, f"this server is not {name[:100]!r}: open it by its own address"
            )

    def knows_token(self, headers: dict[str, str]) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer ")]
        # Not http.cookies: other programs on this host leave cookies at which it gives up.
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            given += [value] if name == self.cookie else []
        return any(self.is_token(each) for each in given)

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())

    async def let_in(self, scope: Scope, send: Send) -> None:
        """`/?token=…` is remembered by the browser, and leaves the address; raises Refused."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] != "/" or not self.is_token(given):
            raise RequestRefused(
                401,
                "this page needs its token: open the address that the terminal shows, or send the "
                "header Authorization: Bearer TOKEN",
            )
        cookie = f"{self.cookie}={given}; Path=/; HttpOnly; SameSite=Strict"
        headers = as_bytes({"location": "/", "set-cookie": cookie})
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def check_origin(headers: dict[str, str]) -> None:
    """Raises Refused for what another site's page sends; other programs name no origin."""
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    foreign = origin is not None and urlsplit(origin).netloc.lower() != host
    site = headers.get("sec-fetch-site", "none")
    followed = headers.get("sec-fetch-mode") == "navigate"  # a link to the page is no harm
    if foreign or (site not in ("same-origin", "none") and not followed):
        raise RequestRefused(403, "requests from another site's page are refused")


async def read(receive: Receive) -> bytes:
    """The whole body, in UTF-8; raises Refused.

    One that is too large is read on for a while, unkept: a client hears an answer only when it has
    sent all.
    """
    body, size, more = b"", 0, True
    while more and size <= 16 * LARGEST:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestRefused(400, "the request broke off")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= LARGEST:
            body += part
    if size > LARGEST:
        raise RequestRefused(413, f"the request is larger than {LARGEST:,} bytes")
    try:
        body.decode()
    except UnicodeDecodeError:
        raise RequestRefused(400, "the request is not UTF-8 text") from None
    return body


def replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more for the application; afterwards what comes."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return first.pop() if first else await receive()

    return again


def hostname(named: str) -> str:
    """`localhost` of `localhost:8642`, `::1` of `[::1]:8642`; nothing where it is neither."""
    try:
        return urlsplit(f"//{named}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def as_bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def answer(send: Send, status: int, why: str) -> None:
    """An error in plain words."""
    headers = as_bytes({"content-type": "application/json", "connection": "close"})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": why}).encode()})
