"""Each sampling setting against theory and against transformers."""

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptlab.config.schema import SamplingConfig
from gptlab.generation import sampling

LOGITS_1xV = torch.log(torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05]]))
TEXTS = [[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [9, 1, 9, 1, 9]]


def random_logits(rows: int = 3, vocabulary: int = 40) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


def full_probabilities(
    logits_BxV: torch.Tensor, config: SamplingConfig, texts: list[list[int]] | None = None
) -> torch.Tensor:
    """Return the probabilities over the whole vocabulary, (B, V)."""
    texts = [[]] * len(logits_BxV) if texts is None else texts
    probabilities_BxC, ids_BxC = sampling.candidate_probabilities(logits_BxV, config, texts)
    return torch.zeros_like(logits_BxV).scatter(-1, ids_BxC, probabilities_BxC)


def probabilities(**settings) -> list[float]:
    return full_probabilities(LOGITS_1xV, SamplingConfig(**settings))[0].tolist()


@pytest.mark.fast
def test_probabilities_equal_those_computed_by_hand() -> None:
    assert probabilities() == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05])
    assert probabilities(temperature=0.0) == [1, 0, 0, 0, 0]
    squares = [p**2 for p in (0.4, 0.3, 0.15, 0.1, 0.05)]
    assert probabilities(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])
    assert probabilities(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert probabilities(top_p=0.7) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert probabilities(top_p=0.71) == pytest.approx([40 / 85, 30 / 85, 15 / 85, 0, 0])
    assert probabilities(top_p=0.01) == [1, 0, 0, 0, 0]
    assert probabilities(top_k=3, top_p=0.5) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert probabilities(top_k=99, top_p=1.0) == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05])


def test_top_k_keeps_exactly_k_of_equal_logits() -> None:
    kept = full_probabilities(torch.zeros(3, 7), SamplingConfig(top_k=4))
    assert ((kept > 0).sum(-1) == 4).all() and torch.allclose(kept.sum(-1), torch.ones(3))


@pytest.mark.fast
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0}]
)
def test_draws_follow_the_probabilities(settings: dict) -> None:
    """Chi-square test over 20,000 draws at 99.9 %."""
    expected = torch.tensor(probabilities(**settings))
    generators = [torch.Generator().manual_seed(5)] * 20_000
    tokens = sampling.sample_columns(expected.expand(20_000, 5), generators)
    counts = torch.bincount(torch.tensor(tokens), minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    expected_counts = 20_000 * expected[possible]
    limit = {2: 13.8, 3: 16.3, 4: 18.5}[int(possible.sum()) - 1]
    assert ((counts[possible] - expected_counts) ** 2 / expected_counts).sum() < limit


@pytest.mark.parametrize(
    ("settings", "processor"),
    [
        ({"top_k": 7}, TopKLogitsWarper(7)),
        ({"top_p": 0.8}, TopPLogitsWarper(0.8)),
        ({"min_p": 0.1}, MinPLogitsWarper(0.1)),
        ({"repetition_penalty": 1.3}, RepetitionPenaltyLogitsProcessor(1.3)),
        ({"repetition_penalty": 0.7}, RepetitionPenaltyLogitsProcessor(0.7)),
        ({"no_repeat_ngram": 1}, NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram": 2}, NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram": 3}, NoRepeatNGramLogitsProcessor(3)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_setting_equals_transformers(settings: dict, processor) -> None:
    actual = full_probabilities(random_logits(), SamplingConfig(**settings), TEXTS)
    expected = processor(torch.tensor(TEXTS), random_logits()).softmax(dim=-1)
    torch.testing.assert_close(actual, expected)


def test_all_settings_apply_in_the_documented_order() -> None:
    settings = SamplingConfig(
        temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2, no_repeat_ngram=2
    )
    expected = sampling.repetition_penalty(random_logits(), 1.2, TEXTS)
    expected = sampling.no_repeat_ngram(expected, 2, TEXTS) / 0.7
    expected = TopKLogitsWarper(20)(None, expected)
    expected = sampling.min_p(sampling.top_p(expected, 0.9), 0.02)
    actual = full_probabilities(random_logits(), settings, TEXTS)
    torch.testing.assert_close(actual, expected.softmax(dim=-1))
    assert ((actual > 0).sum(dim=-1) < 20).all()


@pytest.mark.parametrize("spread", [0.1, 6.0])  # 0.1: flat, more candidates than the shortcut
def test_top_p_of_a_large_vocabulary_equals_transformers(spread: float) -> None:
    large = random_logits(4, 30_000) / 3 * spread
    actual = full_probabilities(large, SamplingConfig(top_p=0.9))
    expected = TopPLogitsWarper(0.9)(None, large).softmax(dim=-1)
    sizes = (actual > 0).sum(dim=-1), (expected > 0).sum(dim=-1)
    assert (sizes[0] - sizes[1]).abs().max() <= 1  # by rounding
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (int(sizes[0].max()) > sampling.TOP_P_CANDIDATES) == (spread < 1)


def test_settings_do_not_modify_the_logits() -> None:
    logits = random_logits()
    settings = SamplingConfig(
        temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=2.0, no_repeat_ngram=1
    )
    full_probabilities(logits, settings, TEXTS)
    assert torch.equal(logits, random_logits())


def test_a_token_stays_possible_even_if_every_token_would_repeat() -> None:
    actual = full_probabilities(random_logits(1, 3), SamplingConfig(no_repeat_ngram=1), [[0, 1, 2]])
    assert actual.isfinite().all() and actual.sum() == pytest.approx(1)


def test_draws_at_the_edges_are_possible_tokens(monkeypatch) -> None:
    rows = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for uniform, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (1 - 2**-53, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniform, **__: torch.tensor(u).double())
        assert sampling.sample_columns(rows, [torch.Generator()]) == [token]
