"""Measure how long a run has taken, summed over all processes that trained it."""

import time
from datetime import datetime


class ElapsedTime:
    """Wall-clock and CPU seconds of a run, including those before it was resumed."""

    def __init__(self, began: str | None = None, seconds: float = 0.0, cpu_seconds: float = 0.0):
        self.began = began or f"{datetime.now():%Y-%m-%dT%H:%M:%S}"  # local time
        self.earlier = seconds, cpu_seconds
        self.started = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return self.earlier[0] + time.perf_counter() - self.started[0]

    def cpu_seconds(self) -> float:
        """CPU time of all threads."""
        return self.earlier[1] + time.process_time() - self.started[1]

    def state(self) -> tuple[str, float, float]:
        """The arguments of an ElapsedTime that continues this one."""
        return self.began, self.seconds(), self.cpu_seconds()
