"""The figures of a classifier."""

import pytest
import torch

from gptlab.evaluation.classification import make_metrics


def test_f1_of_more_than_two_classes_is_the_mean_over_classes() -> None:
    metrics = make_metrics(3)
    metrics.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 1]))
    computed = metrics.compute()
    assert float(computed["accuracy"]) == 0.75
    assert float(computed["f1"]) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
