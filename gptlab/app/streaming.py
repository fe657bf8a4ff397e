"""Answers that are computed while they are sent, and errors in plain words."""

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Generator
from typing import Any

from starlette.responses import Response

from gptlab.app.job_queue import JobQueue, QueueFull
from gptlab.app.model_registry import NotFound
from gptlab.utils.errors import UserError, is_out_of_memory

PATIENCE = 20.0  # seconds that a client may let what was sent lie, before it is taken for gone
Work = Callable[[], Generator[Any, None, None]]


def explain(error: Exception) -> tuple[int, str]:
    """Status and words. What is a bug of ours, the terminal shows in full."""
    match error:
        case QueueFull():
            return 429, str(error)
        case NotFound():
            return 404, error.line()
        case UserError():
            return 400, error.line()
    if is_out_of_memory(error):
        return 503, "out of memory: take fewer samples or a smaller model"
    traceback.print_exception(error, file=sys.stderr)
    return 500, "something went wrong here; the terminal of the server shows what"


def lines(events: list[Any]) -> bytes:
    """JSON, an event a line."""
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


class StreamedAnswer(Response):
    """Sends each event as it comes. When the client leaves, so ends the work.

    Its status waits for the first event: what was wrong before that has a status of its own, and
    later an event `{"error": …}`.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        queue: JobQueue,
        work: Work,
        encode: Callable[[list[Any]], bytes] = lines,
        as_error: Callable[[int, str], Any] = lambda status, why: {"error": why},
        media_type: str | None = None,
        last: Callable[[], bytes] = bytes,
    ):
        super().__init__(media_type=media_type)
        self.queue = queue
        self.work = work
        self.encode = encode
        self.as_error = as_error
        self.last = last  # after all events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sending = asyncio.ensure_future(self.send_all(send))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()  # nothing, if it is done
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await sending

    async def send_all(self, send: Any) -> None:
        begun = False
        try:
            async with contextlib.aclosing(self.queue.run(self.work)) as batches:
                async for events in batches:
                    if not begun:
                        begun = True
                        await self.begin(send, 200, self.media_type)
                    await body(send, self.encode(events), more=True)
        except Exception as error:
            if isinstance(error, TimeoutError):  # the client reads no more
                raise
            status, why = explain(error)
            failure = self.as_error(status, why)
            if not begun:
                await self.begin(send, status, "application/json")
                await body(send, json.dumps(failure).encode(), more=False)
                return
            await body(send, self.encode([failure]), more=True)
        if not begun:
            await self.begin(send, 200, self.media_type)
        await body(send, self.last(), more=False)

    async def begin(self, send: Any, status: int, kind: str | None) -> None:
        headers = [(b"content-type", (kind or "").encode())]
        headers += [(b"retry-after", b"2")] if status == 429 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})


class WholeAnswer(StreamedAnswer):
    """One answer, computed in its turn: the last event, or what `join` makes of all."""

    media_type = "application/json"

    def __init__(
        self, queue: JobQueue, work: Work, join: Callable[[list[Any]], Any] = list.pop, **more: Any
    ):
        self.events: list[Any] = []
        super().__init__(queue, work, **more)
        self.join = join

    async def send_all(self, send: Any) -> None:
        try:
            async with contextlib.aclosing(self.queue.run(self.work)) as batches:
                events = [event async for batch in batches for event in batch]
            status, content = 200, self.join(events)
        except Exception as error:
            status, why = explain(error)
            content = self.as_error(status, why)
        await self.begin(send, status, self.media_type)
        await body(send, json.dumps(content, ensure_ascii=False).encode(), more=False)


async def body(send: Any, content: bytes, more: bool) -> None:
    """Raises TimeoutError for a client that reads nothing."""
    message = {"type": "http.response.body", "body": content, "more_body": more}
    await asyncio.wait_for(send(message), PATIENCE)


async def left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
