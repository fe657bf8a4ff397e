"""Compare timings on a noisy machine: contenders take turns and are compared by ratio."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contender = Callable[[], float]  # does the work once and returns its seconds


@dataclass
class Timing:
    """One contender's seconds per round, and their ratios to the first contender's."""

    name: str
    seconds: list[float]
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def describe(self, unit: str = "ms") -> str:
        """Format median and spread of the time and of the ratio."""
        factor = {"s": 1, "ms": 1e3}[unit]
        low, high = min(self.seconds) * factor, max(self.seconds) * factor
        ratio = statistics.median(self.ratios)
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return (
            f"  {self.name:<44} {self.median * factor:8.2f} {unit} ({low:.2f} to {high:.2f})"
            f"  × {ratio:.2f} ({spread})"
        )


def time_in_turns(
    contenders: Mapping[str, Contender], rounds: int, warm_up: bool = True
) -> list[Timing]:
    """Run the contenders in turns, every second round in reverse order.

    Ratios are between timings of the same round, so that a slow minute affects both.
    """
    for contender in contenders.values() if warm_up else ():
        contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            seconds[name].append(contenders[name]())
    first = seconds[next(iter(contenders))]
    return [
        Timing(name, times, [a / b for a, b in zip(times, first, strict=True)])
        for name, times in seconds.items()
    ]


def compare_timings(
    contenders: Mapping[str, Contender],
    rounds: int,
    unit: str = "ms",
    details: Callable[[Timing], str] = lambda timing: "",
    warm_up: bool = True,
) -> list[Timing]:
    """Time the contenders in turns and print a line for each."""
    timings = time_in_turns(contenders, rounds, warm_up)
    for timing in timings:
        print(f"{timing.describe(unit)}  {details(timing)}".rstrip())
    return timings


def timed(work: Callable[[], object]) -> Contender:
    """Make a contender that times all of `work`."""

    def contender() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return contender
