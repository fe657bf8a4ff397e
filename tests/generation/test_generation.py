"""Sampling follows the theory, and the engine writes what the model says."""

import math
from dataclasses import replace

import pytest
import torch

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation import sampling
from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.gpt import GPT

LOGITS_1xV = torch.log(torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05]]))
TOKENIZER = CharTokenizer.train(["abcdefg"], TokenizerConfig())


def probabilities(**settings) -> list[float]:
    return sampling.full_probabilities(LOGITS_1xV, SamplingConfig(**settings))[0].tolist()


def test_probabilities_by_hand() -> None:
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
    kept = sampling.full_probabilities(torch.zeros(3, 7), SamplingConfig(top_k=4))
    assert ((kept > 0).sum(-1) == 4).all() and torch.allclose(kept.sum(-1), torch.ones(3))


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0}]
)
def test_draws_follow_the_probabilities(settings: dict) -> None:
    """Chi-square over 20,000 draws at 99.9 %."""
    expected = torch.tensor(probabilities(**settings))
    draws = [torch.Generator().manual_seed(5)] * 20_000
    drawn = sampling.sample_columns(expected.expand(20_000, 5), draws)
    counts = torch.bincount(torch.tensor(drawn), minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = 20_000 * expected[possible]
    limit = {2: 13.8, 3: 16.3, 4: 18.5}[int(possible.sum()) - 1]
    assert ((counts[possible] - wanted) ** 2 / wanted).sum() < limit


@pytest.fixture
def net() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelConfig(
        n_layer=2, n_head=2, d_model=16, context_length=8, vocab_size=12, init_std=0.5
    ))  # fmt: skip


def generate(net: GPT, prompt: list[int], sampling: SamplingConfig, *more, **rest) -> list[Sample]:
    return generate_samples(GenerationRequest(net, TOKENIZER, prompt, sampling, *more, **rest))


def test_greedy_is_the_likeliest_token_each_time(net: GPT) -> None:
    ids = encode_prompt(TOKENIZER, "abc", eot_first=False)
    net.eval()
    (sample,) = generate(net, ids, SamplingConfig(temperature=0.0), 1, 12)
    wanted = [
        *sample.new_tokens,
        *([TOKENIZER.eot] if sample.finish_reason == "end_of_text" else []),
    ]
    assert len(wanted) > 5  # beyond the window of 8
    for token in wanted:
        logits = net(torch.tensor([ids]))[0, -1, : TOKENIZER.vocab_size]
        assert token == int(logits.argmax())
        ids = [*(ids[4:] if len(ids) == 8 else ids), token]  # its older half forgotten


def test_padding_ids_are_never_written(net: GPT) -> None:
    with torch.no_grad():
        net.embedding.weight[TOKENIZER.vocab_size :] = (
            50.0  # the head is tied: by far the likeliest
        )
    for sample in generate(net, [0], SamplingConfig(), num_samples=20, max_new_tokens=10):
        assert all(token < TOKENIZER.vocab_size for token in sample.new_tokens)


def test_a_seed_is_the_same_text_in_any_company(net: GPT) -> None:
    def texts(n: int, seed: int) -> list[str]:
        samples = generate(net, [1, 2], SamplingConfig(), n, max_new_tokens=30, seed=seed)
        return [sample.text for sample in samples]

    together = texts(5, 7)
    assert together[:1] == texts(1, 7) and together[:3] == texts(3, 7)
    assert len(set(together)) > 1
    assert texts(5, 7) == together != texts(5, 8)


def test_writing_does_not_touch_the_global_random_state(net: GPT) -> None:
    before = torch.get_rng_state()
    generate(net, [1], SamplingConfig(), 2, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_sample_stops_at_its_own_end_of_text(net: GPT) -> None:
    samples = generate(net, [1], SamplingConfig(), num_samples=12, max_new_tokens=60)
    assert len({len(sample.new_tokens) for sample in samples}) > 1
    assert {sample.finish_reason for sample in samples} <= {"end_of_text", "length"}
    for sample in samples:
        assert (len(sample.new_tokens) == 60) == (sample.finish_reason == "length")
        assert TOKENIZER.eot not in sample.new_tokens


def test_a_prompt_longer_than_the_context_counts_by_its_end(net: GPT) -> None:
    long = encode_prompt(TOKENIZER, "abcdefgabcdefgabcdefg", eot_first=False)
    texts = [
        [sample.text for sample in generate(net, prompt, SamplingConfig(), 3, 20, 1)]
        for prompt in (long, long[-8:])
    ]
    assert texts[0] == texts[1]


def test_without_a_prompt_the_text_begins_after_end_of_text() -> None:
    assert encode_prompt(TOKENIZER, "", eot_first=False) == [TOKENIZER.eot]
    assert encode_prompt(TOKENIZER, "ab", eot_first=True) == [TOKENIZER.eot, 0, 1]
    assert encode_prompt(TOKENIZER, "ab", eot_first=False) == [0, 1]


def test_a_training_net_goes_on_training(net: GPT) -> None:
    noisy = GPT(replace(net.config, dropout=0.5)).train()
    first = generate(noisy, [1], SamplingConfig(temperature=0.0), 1, 10)
    assert noisy.training
    again = generate(noisy, [1], SamplingConfig(temperature=0.0), 1, 10)
    assert first[0].tokens == again[0].tokens
    assert math.isfinite(float(noisy(torch.tensor([[1]])).sum().detach()))
