"""How long a run has taken, over all the processes that trained it."""

import time
from datetime import datetime


class ElapsedTime:
    """What a run has taken, in all processes that it has had."""

    def __init__(self, began: str | None = None, seconds: float = 0.0, cpu_seconds: float = 0.0):
        self.began = began or f"{datetime.now():%Y-%m-%dT%H:%M:%S}"  # local time
        self.before = seconds, cpu_seconds
        self.started = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return self.before[0] + time.perf_counter() - self.started[0]

    def cpu_seconds(self) -> float:
        """Of all threads of this process and those before it."""
        return self.before[1] + time.process_time() - self.started[1]

    def read(self) -> tuple[str, float, float]:
        """What `Clock(*…)` goes on from."""
        return self.began, self.seconds(), self.cpu_seconds()
