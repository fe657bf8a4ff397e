"""A power law through a few points, with how far it can be trusted."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class PowerLaw:
    """y = scale · x^-exponent, fitted in logarithms."""

    scale: float
    exponent: float
    interval: tuple[float, float]  # of the exponent, 95 %, from the points' scatter
    spread: float  # of the logarithms around the line, their standard deviation
    logs: np.ndarray  # of x, as fitted
    quantile: float  # of Student's t

    def curve(self, x: np.ndarray) -> np.ndarray:
        return self.scale * x**-self.exponent

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Between which the line itself lies, 95 % at each x."""
        away = (np.log(x) - self.logs.mean()) ** 2 / ((self.logs - self.logs.mean()) ** 2).sum()
        margin = self.quantile * self.spread * np.sqrt(1 / len(self.logs) + away)
        return self.curve(x) * np.exp(-margin), self.curve(x) * np.exp(margin)


def fit_power_law(x: list[float], y: list[float]) -> PowerLaw | None:
    """Least squares of log y on log x; None below three different x, or where y is not above 0."""
    if len(set(x)) < 3 or min(y) <= 0:
        return None
    log_x, log_y = np.log(x), np.log(y)
    slope, intercept = np.polyfit(log_x, log_y, 1)
    free = len(x) - 2
    spread = math.sqrt(((log_y - slope * log_x - intercept) ** 2).sum() / free)
    quantile = student(free)
    margin = quantile * spread / math.sqrt(((log_x - log_x.mean()) ** 2).sum())
    interval = (-slope - margin, -slope + margin)
    return PowerLaw(math.exp(intercept), -slope, interval, spread, log_x, quantile)


def student(freedom: int, probability: float = 0.975) -> float:
    """The quantile of Student's t, by summing up its density; for probabilities up to 0.975."""
    t = np.linspace(0, 13, 130_001)  # 12.7 for one degree of freedom, less for more
    logs = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = math.exp(logs) / math.sqrt(freedom * math.pi)
    density = density * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    steps = (density[1:] + density[:-1]) / 2 * (t[1] - t[0])
    return float(np.interp(probability - 0.5, np.concatenate(([0], np.cumsum(steps))), t))
