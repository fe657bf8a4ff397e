"""Run one computation at a time in a worker thread; the others wait in a bounded queue.

Several at once would not be faster: each uses every core.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], Generator[T, None, None]]
BATCH_SECONDS = 0.04  # events that come within this time are sent together


class QueueFull(Exception):
    """Raised when too many requests wait, or when the server is stopping."""


class JobQueue:
    """Run jobs (generators of events) one after another; stop a job when its client leaves."""

    def __init__(self, max_queue: int):
        self.max_jobs = max_queue + 1
        self.num_jobs = 0  # waiting or running
        self.lock = asyncio.Lock()
        self.executor = ThreadPoolExecutor(1, "compute")
        self.closing = threading.Event()

    async def run(self, job: Job[T]) -> AsyncGenerator[list[T], None]:
        """Yield the job's events in batches, the first event alone so that it arrives at once.

        Raises QueueFull when the queue is full, and whatever the job raises.
        """
        if self.num_jobs >= self.max_jobs:
            raise QueueFull(
                f"the queue is full ({self.num_jobs} requests); try again in a few seconds"
            )
        self.num_jobs += 1
        try:
            async with self.lock, contextlib.aclosing(self._run_now(job)) as batches:
                async for events in batches:
                    yield events
        finally:
            self.num_jobs -= 1

    async def _run_now(self, job: Job[T]) -> AsyncGenerator[list[T], None]:
        loop, cancelled, seconds = asyncio.get_running_loop(), threading.Event(), 0.0
        generator, stops = job(), (cancelled, self.closing)
        try:
            while True:
                if self.closing.is_set():
                    raise QueueFull("the server is stopping")
                events = await loop.run_in_executor(
                    self.executor, collect_events, generator, stops, seconds
                )
                if not events:
                    return
                yield events
                seconds = min(seconds + BATCH_SECONDS / 8, BATCH_SECONDS)
        finally:
            cancelled.set()
            # The single thread closes the generator after its current event, before the next job.
            self.executor.submit(generator.close)

    def close(self) -> None:
        """Stop the running job after its current event, and accept no more jobs."""
        self.closing.set()


def collect_events(
    generator: Generator[T, None, None], stops: tuple[threading.Event, ...], seconds: float
) -> list[T]:
    """Return the next event and any more that arrive within `seconds`."""
    deadline, events = time.perf_counter() + seconds, []
    for event in generator:
        events.append(event)
        if time.perf_counter() >= deadline or any(stop.is_set() for stop in stops):
            break
    return events
