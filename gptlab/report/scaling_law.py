"""Fit a power law to a few points, with confidence intervals."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class PowerLaw:
    """y = scale · x^-exponent, fitted by least squares in logarithms."""

    scale: float
    exponent: float
    interval: tuple[float, float]  # 95 % confidence interval of the exponent
    residual_std: float  # of log y
    log_x: np.ndarray  # the fitted points
    t_quantile: float

    def curve(self, x: np.ndarray) -> np.ndarray:
        return self.scale * x**-self.exponent

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the 95 % confidence band of the curve at each x: (lower, upper)."""
        mean = self.log_x.mean()
        leverage = (np.log(x) - mean) ** 2 / ((self.log_x - mean) ** 2).sum()
        margin = self.t_quantile * self.residual_std * np.sqrt(1 / len(self.log_x) + leverage)
        return self.curve(x) * np.exp(-margin), self.curve(x) * np.exp(margin)


def fit_power_law(x: list[float], y: list[float]) -> PowerLaw | None:
    """Fit log y on log x; None with fewer than three different x, or a y that is not positive."""
    if len(set(x)) < 3 or min(y) <= 0:
        return None
    log_x, log_y = np.log(x), np.log(y)
    slope, intercept = np.polyfit(log_x, log_y, 1)
    freedom = len(x) - 2
    residual_std = math.sqrt(((log_y - slope * log_x - intercept) ** 2).sum() / freedom)
    t_quantile = student_t_quantile(freedom)
    margin = t_quantile * residual_std / math.sqrt(((log_x - log_x.mean()) ** 2).sum())
    interval = (-slope - margin, -slope + margin)
    return PowerLaw(math.exp(intercept), -slope, interval, residual_std, log_x, t_quantile)


def student_t_quantile(freedom: int, probability: float = 0.975) -> float:
    """Return the quantile of Student's t by integrating its density; probability ≤ 0.975."""
    t = np.linspace(0, 13, 130_001)  # one degree of freedom: 12.7; more degrees: less
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = math.exp(log_scale) / math.sqrt(freedom * math.pi)
    density = scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    areas = (density[1:] + density[:-1]) / 2 * (t[1] - t[0])
    return float(np.interp(probability - 0.5, np.concatenate(([0], np.cumsum(areas))), t))
