"""Beam search against all texts of a small vocabulary."""

import itertools

import pytest
import torch

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation.beam import beam_steps
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.gpt import GPT

TOKENIZER = CharTokenizer.train(["ab"], TokenizerConfig())  # and end-of-text


@pytest.fixture(scope="module")
def net() -> GPT:
    torch.manual_seed(2)
    config = ModelConfig(
        n_layer=1, n_head=1, d_model=8, context_length=8, vocab_size=3, init_std=0.7
    )
    return GPT(config).eval()


def beam_search(net: GPT, prompt: list[int], **settings) -> list[Sample]:
    sampling = {
        name: settings.pop(name)
        for name in ("beams", "length_penalty", "repetition_penalty")
        if name in settings
    }
    request = GenerationRequest(net, TOKENIZER, prompt, SamplingConfig(**sampling), **settings)
    *_, samples = beam_steps(request)
    return samples


def rank_all_texts(net: GPT, prompt: list[int], length: int, power: float) -> list[tuple]:
    """Return the scores and tokens of all texts up to this length, the best first."""
    eot, texts = TOKENIZER.eot, []
    for n in range(1, length + 1):
        for tokens in itertools.product(range(3), repeat=n):
            if eot not in tokens[:-1] and (tokens[-1] == eot or n == length):
                texts.append(tokens)
    padded = torch.tensor([[*prompt, *tokens, *[0] * (length - len(tokens))] for tokens in texts])
    with torch.no_grad():
        logprobs = net(padded[:, :-1]).log_softmax(dim=-1)[:, len(prompt) - 1 :]
    ranked = []
    for row, tokens in enumerate(texts):
        total = sum(float(logprobs[row, at, token]) for at, token in enumerate(tokens))
        ranked.append((total / len(tokens) ** power, [t for t in tokens if t != eot]))
    return sorted(ranked, reverse=True)


@pytest.mark.fast
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -0.5])
def test_a_wide_beam_finds_the_best_of_all_texts(net: GPT, power: float) -> None:
    best = rank_all_texts(net, [0, 1], 5, power)[:10]
    samples = beam_search(
        net, [0, 1], beams=300, length_penalty=power, num_samples=10, max_new_tokens=5
    )
    assert [sample.new_tokens for sample in samples] == [tokens for _, tokens in best]
    scores = [sum(s.logprobs) / len(s.logprobs) ** power for s in samples]
    assert scores == pytest.approx([score for score, _ in best], rel=1e-4)


def test_one_beam_is_greedy_and_more_beams_are_no_worse(net: GPT) -> None:
    greedy = SamplingConfig(temperature=0.0)
    request = GenerationRequest(net, TOKENIZER, [0], greedy, max_new_tokens=20)
    (expected,) = generate_samples(request)
    totals = []
    for beams in (1, 2, 8):
        (sample,) = beam_search(net, [0], beams=beams, length_penalty=0.0, max_new_tokens=20)
        totals.append(sum(sample.logprobs))
        if beams == 1:
            assert sample.tokens == expected.tokens
            assert sample.finish_reason == expected.finish_reason
    assert totals == sorted(totals)


def test_beam_search_stops_at_stop_strings_and_needs_no_cache(net: GPT) -> None:
    settings = {"beams": 4, "num_samples": 4, "max_new_tokens": 30}
    plain = beam_search(net, [0], use_cache=False, **settings)
    cached = beam_search(net, [0], **settings)
    assert [s.tokens for s in plain] == [s.tokens for s in cached]
    assert len(beam_search(net, [0], stop=["ab", "ba", "aa"], **settings)) == 4
    for sample in beam_search(net, [0], stop=["ab"], **settings):
        assert "ab" not in sample.text
        assert sample.finish_reason != "stop" or sample.tokens[-2:] == TOKENIZER.encode("ab")


def test_logprobs_equal_the_models_before_penalties(net: GPT) -> None:
    settings = {"num_samples": 3, "max_new_tokens": 6}
    for sample in beam_search(net, [0, 1], beams=3, repetition_penalty=3.0, **settings):
        tokens = [0, 1, *sample.predicted_tokens]
        logprobs = net(torch.tensor([tokens[:-1]])).log_softmax(dim=-1)[0].detach()
        expected = [float(logprobs[at - 1, tokens[at]]) for at in range(2, len(tokens))]
        assert sample.logprobs == pytest.approx(expected, abs=1e-5)
