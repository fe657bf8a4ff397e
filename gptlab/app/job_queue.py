"""One computation at a time, however many ask: a thread that computes, and a short queue for it.

More at once would not be faster: each already uses every core.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
TOGETHER = 0.04  # seconds: events that come faster are sent together


class QueueFull(Exception):
    """Too many wait already, or the server is about to end."""


class JobQueue:
    """Work is a generator; it is stopped between two of its events when nobody waits for it."""

    def __init__(self, waiting: int):
        self.most = waiting + 1
        self.inside = 0  # those who wait, and the one whose turn it is
        self.turn = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, "compute")
        self.closing = threading.Event()

    async def run(self, work: Callable[[], Generator[T, None, None]]) -> AsyncIterator[list[T]]:
        """What the work yields, at first each event at once, then those of a moment together.

        Raises Busy instead of waiting behind too many, and what the work raises.
        """
        if self.inside >= self.most:
            raise QueueFull(f"{self.inside} others write or wait already; try again in a moment")
        self.inside += 1
        try:
            async with self.turn, contextlib.aclosing(self.turn_of(work)) as all_events:
                async for events in all_events:
                    yield events
        finally:
            self.inside -= 1

    async def turn_of(self, work: Callable[[], Generator[T, None, None]]) -> AsyncIterator[list[T]]:
        stop, together, loop = threading.Event(), 0.0, asyncio.get_running_loop()
        running = work()
        try:
            while True:
                if self.closing.is_set():
                    raise QueueFull("the server has been ended")
                todo = (collect, running, (stop, self.closing), together)
                events = await loop.run_in_executor(self.thread, *todo)
                if not events:
                    return
                yield events
                together = min(together + TOGETHER / 8, TOGETHER)
        finally:
            stop.set()
            # After the event that is being computed, and before the next one's turn: there is but
            # one thread.
            self.thread.submit(running.close)

    def close(self) -> None:
        """Stops what is being computed, within one event; nothing begins any more."""
        self.closing.set()


def collect(
    running: Generator[T, None, None], stops: tuple[threading.Event, ...], seconds: float
) -> list[T]:
    """The next event, and those that follow it within so many seconds."""
    ends, events = time.perf_counter() + seconds, []
    for event in running:
        events.append(event)
        if time.perf_counter() >= ends or any(stop.is_set() for stop in stops):
            break
    return events
