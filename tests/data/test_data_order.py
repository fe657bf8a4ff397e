"""The order of the training data: a permutation per epoch, without state, uniform over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.data.data_order import feistel_permute


@pytest.mark.fast
@given(st.integers(1, 400), st.integers(0, 2**63 - 1))
def test_each_epoch_is_a_different_permutation(size: int, seed: int) -> None:
    order = feistel_permute(np.arange(3 * size), size, seed).reshape(3, size)
    assert (np.sort(order, axis=1) == np.arange(size)).all()
    if size > 20:
        assert not (order[0] == order[1]).all() and not (order[0] == np.arange(size)).all()
        assert not (feistel_permute(np.arange(size), size, seed ^ 1) == order[0]).all()


@pytest.mark.fast
def test_the_order_is_a_pure_function_of_the_index() -> None:
    whole = feistel_permute(np.arange(1000), 77, 5)
    alone = [feistel_permute(np.array([i]), 77, 5)[0] for i in range(1000)]
    assert whole.tolist() == alone


def test_the_order_is_uniform_over_seeds() -> None:
    """Over many seeds each sequence is first about equally often (chi-square, 19 degrees)."""
    first = [feistel_permute(np.array([0]), 20, seed)[0] for seed in range(4000)]
    counts = np.bincount(first, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # 99.9 %
