"""Timings that a shared, noisy machine cannot spoil: contenders take turns, and ratios are kept."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Contender = Callable[[], float]  # does the work once; the seconds that it took


@dataclass
class Timing:
    """Of one contender: its seconds in each round, and their ratios to the first one's."""

    name: str
    seconds: list[float]
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def line(self, unit: str = "ms") -> str:
        """Median and spread, and how many times the first one's time it is."""
        factor = {"s": 1, "ms": 1e3}[unit]
        low, high = min(self.seconds) * factor, max(self.seconds) * factor
        ratio = statistics.median(self.ratios)
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return (
            f"  {self.name:<44} {self.median * factor:8.2f} {unit} ({low:.2f} to {high:.2f})"
            f"  × {ratio:.2f} ({spread})"
        )


def time_in_pairs(contenders: dict[str, Contender], rounds: int, warm: bool = True) -> list[Timing]:
    """Runs all contenders once to warm up, then in turns; every second round backwards.

    A ratio is of two timings of the same round, so that a slow minute touches both.
    """
    for contender in contenders.values() if warm else ():
        contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            seconds[name].append(contenders[name]())
    first = seconds[next(iter(contenders))]
    return [
        Timing(name, taken, [mine / its for mine, its in zip(taken, first, strict=True)])
        for name, taken in seconds.items()
    ]


def timed(work: Callable[[], object]) -> Contender:
    """A contender that times all of `work`."""

    def contender() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return contender
