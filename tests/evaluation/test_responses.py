"""The scores of responses to instructions."""

import pytest

from gptlab.evaluation.responses import score_responses


def test_responses_are_scored_by_rouge_and_exact_match() -> None:
    expected = ["The cat sat on the mat today.", "blue", "Two words"]
    perfect = score_responses(expected, expected)
    assert (perfect.pop("rouge_l_shuffled") or 0.0) < 0.2
    assert perfect == {"n": 3, "rouge_l": 1.0, "exact": 1.0, "exact_n": 2}
    some = score_responses(expected, ["the cat sat", "Blue.", "no"])
    assert some["exact"] == 0.5
    # 3 of the 3 generated words match, and 3 of the 7 expected: F = 2 · 1 · 3/7 / (1 + 3/7).
    assert some["rouge_l"] == pytest.approx((0.6 + 1 + 0) / 3, abs=1e-4)
