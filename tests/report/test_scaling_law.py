"""Power-law fits recover known laws with honest intervals."""

import numpy as np
import pytest

from gptlab.report.scaling_law import fit_power_law, student_t_quantile


def test_power_law_is_recovered_and_its_interval_covers_95_percent() -> None:
    x = np.geomspace(1e4, 1e7, 8)
    law = fit_power_law(list(x), list(12 * x**-0.08))
    assert (law.scale, law.exponent) == (pytest.approx(12), pytest.approx(0.08))
    assert law.interval == (pytest.approx(0.08), pytest.approx(0.08))
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        noisy = 12 * x**-0.08 * np.exp(0.02 * random.standard_normal(8))
        low, high = fit_power_law(list(x), list(noisy)).interval
        covered += low < 0.08 < high
    assert 0.92 < covered / 300 < 0.98
    low, high = law.band(x)
    assert (low <= law.curve(x) * 1.000001).all() and (high >= law.curve(x) * 0.999999).all()
    assert fit_power_law([1, 2, 2], [3, 2, 1]) is None
    assert fit_power_law([1, 2, 3], [3, 2, -1]) is None


@pytest.mark.fast
def test_student_t_quantiles_match_the_published_table() -> None:
    table = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 30: 2.042}
    for freedom, quantile in table.items():
        assert student_t_quantile(freedom) == pytest.approx(quantile, abs=6e-4)
