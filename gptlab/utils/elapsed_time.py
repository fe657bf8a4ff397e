"""Measure how long a run has taken, summed over all processes that trained it."""

import time
from datetime import datetime


class ElapsedTime:
    """Measure wall-clock and CPU seconds of a run, including the time before it was resumed."""

    def __init__(self, began: str | None = None, seconds: float = 0.0, cpu_seconds: float = 0.0):
        self.began = began or f"{datetime.now():%Y-%m-%dT%H:%M:%S}"  # local time
        self.start = time.perf_counter() - seconds
        self.cpu_start = time.process_time() - cpu_seconds

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def cpu_seconds(self) -> float:
        """CPU time of all threads."""
        return time.process_time() - self.cpu_start

    def state(self) -> tuple[str, float, float]:
        """Return the arguments of an ElapsedTime that continues this one."""
        return self.began, self.seconds(), self.cpu_seconds()
