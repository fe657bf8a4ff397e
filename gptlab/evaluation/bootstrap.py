"""Estimate the uncertainty of losses by a bootstrap. Efron (1979).

Tokens of one document depend on each other, so whole documents are drawn.
"""

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gptlab.evaluation.document_scores import DocumentScores

BOOTSTRAP_DRAWS = 1000


def bootstrap_means(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Draw documents with replacement; return sum / tokens of each draw."""
    random, count = np.random.default_rng(0), len(sums)
    means = np.empty(BOOTSTRAP_DRAWS)
    for number in range(BOOTSTRAP_DRAWS):
        drawn = random.integers(count, size=count)
        means[number] = sums[drawn].sum() / tokens[drawn].sum()
    return means


def paired_difference(
    a: "DocumentScores", b: "DocumentScores", confidence: float = 0.95
) -> tuple[float, float, float]:
    """Estimate loss(a) − loss(b) in nats per token, with a confidence interval.

    Both must score the same documents: pairing cancels how hard each document is. The interval
    assumes a normal distribution with the bootstrap's standard error.
    """
    difference = a.nats - b.nats
    mean = float(difference.sum() / a.tokens.sum())
    error = float(np.std(bootstrap_means(difference, a.tokens), ddof=1))
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return mean, mean - margin, mean + margin
