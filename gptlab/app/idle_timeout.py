"""Connections that ask for nothing do not keep others out."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from gptlab.app import security


class IdleTimeoutProtocol(H11Protocol):
    """Ends a connection on which no head of a request arrives in time; the rest Guard sees to."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.expect_request(None)

    def on_response_complete(self) -> None:
        self.expect_request(self.cycle)  # before those sent together with it are begun
        super().on_response_complete()

    def expect_request(self, before: Any) -> None:
        self.loop.call_later(security.PATIENCE, self.close_idle, before)

    def close_idle(self, before: Any) -> None:
        if self.cycle is before:
            self.transport.close()
