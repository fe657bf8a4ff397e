"""Every way of sampling against what theory says of it, and beam search against all texts."""

import itertools
import math

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation import sampling
from gptlab.generation.beam import beam_steps
from gptlab.generation.engine import generate_samples, generate_steps
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.gpt import GPT

TOKENIZER = CharTokenizer.train(["ab"], TokenizerConfig())  # and end-of-text
TEXTS = [[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [9, 1, 9, 1, 9]]


def logits(rows: int = 3, vocabulary: int = 40) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs"),
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
def test_each_is_that_of_transformers(ours: dict, theirs) -> None:
    found = sampling.full_probabilities(logits(), SamplingConfig(**ours), TEXTS)
    wanted = theirs(torch.tensor(TEXTS), logits()).softmax(dim=-1)
    torch.testing.assert_close(found, wanted)


def test_all_together_in_the_order_that_is_told() -> None:
    settings = SamplingConfig(
        temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2, no_repeat_ngram=2
    )
    wanted = sampling.repetition_penalty(logits(), 1.2, TEXTS)
    wanted = sampling.no_repeat_ngram(wanted, 2, TEXTS) / 0.7
    wanted = sampling.min_p(sampling.top_p(sampling.top_k(wanted, 20), 0.9), 0.02).softmax(dim=-1)
    found = sampling.full_probabilities(logits(), settings, TEXTS)
    torch.testing.assert_close(found, wanted)
    assert ((found > 0).sum(dim=-1) < 20).all()


@pytest.mark.parametrize("spread", [0.1, 6.0])  # flat: the nucleus is larger than the shortcut
def test_top_p_of_a_large_vocabulary_is_that_of_transformers(spread: float) -> None:
    large = logits(4, 30_000) / 3 * spread
    found = sampling.full_probabilities(large, SamplingConfig(top_p=0.9))
    wanted = TopPLogitsWarper(0.9)(None, large).softmax(dim=-1)
    assert ((found > 0).sum(dim=-1) - (wanted > 0).sum(dim=-1)).abs().max() <= 1  # by rounding
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (int((found > 0).sum(dim=-1).max()) > sampling.TOP_P_CANDIDATES) == (spread < 1)


def test_functions_leave_their_logits_as_they_were() -> None:
    given = logits()
    everything = SamplingConfig(
        temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=2.0, no_repeat_ngram=1
    )
    sampling.full_probabilities(given, everything, TEXTS)
    assert torch.equal(given, logits())


def test_where_every_token_would_repeat_something_stays_possible() -> None:
    found = sampling.full_probabilities(
        logits(1, 3), SamplingConfig(no_repeat_ngram=1), [[0, 1, 2]]
    )
    assert found.isfinite().all() and found.sum() == pytest.approx(1)


def test_draws_at_the_edges_are_possible_tokens(monkeypatch) -> None:
    rows = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for uniform, wanted in ((0.0, 1), (0.2499, 1), (0.25, 3), (1 - 2**-53, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniform, **__: torch.tensor(u).double())
        assert sampling.sample_columns(rows, [torch.Generator()]) == [wanted]


@pytest.fixture
def net() -> GPT:
    torch.manual_seed(2)
    return GPT(
        ModelConfig(n_layer=1, n_head=1, d_model=8, context_length=8, vocab_size=3, init_std=0.7)
    )


def generate(net: GPT, prompt: list[int], sampling: SamplingConfig, *more, **rest) -> list[Sample]:
    return generate_samples(GenerationRequest(net, TOKENIZER, prompt, sampling, *more, **rest))


def beam_search(
    net: GPT, prompt: list[int], sampling: SamplingConfig, *more, **rest
) -> list[Sample]:
    *_, samples = beam_steps(GenerationRequest(net, TOKENIZER, prompt, sampling, *more, **rest))
    return samples


def every_text(net: GPT, prompt: list[int], most: int, power: float) -> list[tuple[float, list]]:
    """All texts of at most so many tokens with their scores, the best first."""
    eot, found = TOKENIZER.eot, []
    for length in range(1, most + 1):
        for tokens in itertools.product(range(3), repeat=length):
            ends = tokens[-1] == eot
            if eot in tokens[:-1] or (not ends and length < most):
                continue
            with torch.no_grad():
                whole = net(torch.tensor([[*prompt, *tokens]])).log_softmax(dim=-1)[0]
            places = range(len(prompt) - 1, len(prompt) + length - 1)
            total = sum(float(whole[at, token]) for at, token in zip(places, tokens, strict=True))
            found.append((total / length**power, [t for t in tokens if t != eot]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -0.5])
def test_a_wide_beam_finds_the_best_of_all_texts(net: GPT, power: float) -> None:
    net.eval()
    wanted = every_text(net, [0, 1], 5, power)
    settings = SamplingConfig(beams=300, length_penalty=power)
    found = beam_search(net, [0, 1], settings, num_samples=10, max_new_tokens=5)
    assert [sample.new_tokens for sample in found] == [tokens for _, tokens in wanted[:10]]
    for sample, (score, _) in zip(found, wanted, strict=False):
        mine = sum(sample.logprobs) / len(sample.logprobs) ** power
        assert mine == pytest.approx(score, rel=1e-4)


def test_one_beam_is_greedy_and_more_are_no_worse(net: GPT) -> None:
    (greedy,) = generate(net, [0], SamplingConfig(temperature=0.0), 1, 20, logprobs=True)
    totals = []
    for beams in (1, 2, 8):
        settings = SamplingConfig(beams=beams, length_penalty=0.0)
        (sample,) = beam_search(net, [0], settings, max_new_tokens=20)
        totals.append(sum(sample.logprobs))
        if beams == 1:
            assert sample.tokens == greedy.tokens and sample.finish_reason == greedy.finish_reason
    assert totals == sorted(totals)


def test_beams_stop_and_do_without_a_cache(net: GPT) -> None:
    settings = SamplingConfig(beams=4)
    plain = beam_search(net, [0], settings, 4, 30, use_cache=False)
    cached = beam_search(net, [0], settings, 4, 30)
    assert [s.tokens for s in plain] == [s.tokens for s in cached]
    stopped = beam_search(net, [0], settings, 4, 30, stop=["ab", "ba", "aa"])
    assert len(stopped) == 4
    for sample in beam_search(net, [0], settings, 4, 30, stop=["ab"]):
        assert "ab" not in sample.text
        assert sample.finish_reason != "stop" or sample.tokens[-2:] == TOKENIZER.encode("ab")


def test_log_probabilities_are_the_models_own(net: GPT) -> None:
    settings = SamplingConfig(temperature=0.5, top_k=2, repetition_penalty=1.5)
    samples = generate(net, [0, 1], settings, 5, 6, logprobs=True)
    beams = SamplingConfig(beams=3, repetition_penalty=3.0)
    for sample in samples + beam_search(net, [0, 1], beams, 3, 6):
        tokens = [
            *sample.tokens,
            *([TOKENIZER.eot] if sample.finish_reason == "end_of_text" else []),
        ]
        whole = net(torch.tensor([tokens[:-1]])).log_softmax(dim=-1)[0].detach()
        wanted = [float(whole[at - 1, tokens[at]]) for at in range(2, len(tokens))]
        assert sample.logprobs == pytest.approx(wanted, abs=1e-5)
        assert sample.mean_logprob == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
        assert not math.isnan(sample.mean_logprob)


def test_a_stop_text_ends_a_sample_and_is_never_shown(net: GPT) -> None:
    plain = generate(net, [0], SamplingConfig(), 20, 40)
    shown: list[list[str]] = [[] for _ in range(20)]
    for samples in generate_steps(
        GenerationRequest(net, TOKENIZER, [0], SamplingConfig(), 20, 40, stop=["aab", "bbb"])
    ):
        for texts, sample in zip(shown, samples, strict=True):
            texts.append(sample.text)
    assert {"stop"} < {sample.finish_reason for sample in samples}
    for texts, sample, whole in zip(shown, samples, plain, strict=True):
        cut = min(
            (at for stop in ("aab", "bbb") if (at := whole.text.find(stop)) >= 0), default=None
        )
        assert sample.text == whole.text[:cut]
        assert (sample.finish_reason == "stop") == (cut is not None)
        assert all(sample.text.startswith(text) for text in texts)  # nothing is taken back
