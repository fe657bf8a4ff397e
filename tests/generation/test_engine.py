"""The engine generates what the model predicts, the same for a seed in every batch."""

import math
from dataclasses import replace

import pytest
import torch

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation.engine import encode_prompt, generate_samples, generate_steps
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.gpt import GPT

pytestmark = pytest.mark.fast
TOKENIZER = CharTokenizer.train(["abcdefg"], TokenizerConfig())
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture
def net() -> GPT:
    torch.manual_seed(0)
    config = ModelConfig(
        n_layer=2, n_head=2, d_model=16, context_length=8, vocab_size=12, init_std=0.5
    )
    return GPT(config)


def generate(net: GPT, prompt: list[int], *sampling: SamplingConfig, **settings) -> list[Sample]:
    return generate_samples(GenerationRequest(net, TOKENIZER, prompt, *sampling, **settings))


def test_greedy_takes_the_most_likely_token_each_time(net: GPT) -> None:
    ids = encode_prompt(TOKENIZER, "abc", eot_first=False)
    net.eval()
    (sample,) = generate(net, ids, GREEDY, max_new_tokens=12)
    assert len(sample.predicted_tokens) > 5  # beyond the window of 8
    for token in sample.predicted_tokens:
        logits = net(torch.tensor([ids]))[0, -1, : TOKENIZER.vocab_size]
        assert token == int(logits.argmax())
        ids = [*(ids[4:] if len(ids) == 8 else ids), token]  # the older half is dropped


def test_ids_that_pad_the_embedding_are_never_generated(net: GPT) -> None:
    with torch.no_grad():  # the head is tied, so these ids become by far the most likely
        net.embedding.weight[TOKENIZER.vocab_size :] = 50.0
    for sample in generate(net, [0], num_samples=20, max_new_tokens=10):
        assert all(token < TOKENIZER.vocab_size for token in sample.new_tokens)


def test_a_seed_gives_the_same_text_in_every_batch(net: GPT) -> None:
    def texts(num_samples: int, seed: int) -> list[str]:
        settings = {"num_samples": num_samples, "max_new_tokens": 30, "seed": seed}
        return [sample.text for sample in generate(net, [1, 2], **settings)]

    batch = texts(5, 7)
    assert batch[:1] == texts(1, 7) and batch[:3] == texts(3, 7)
    assert len(set(batch)) > 1
    assert texts(5, 7) == batch != texts(5, 8)


def test_generating_leaves_the_global_random_state_alone(net: GPT) -> None:
    before = torch.get_rng_state()
    generate(net, [1], num_samples=2, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_sample_ends_at_its_own_end_of_text(net: GPT) -> None:
    samples = generate(net, [1], num_samples=12, max_new_tokens=60)
    assert len({len(sample.new_tokens) for sample in samples}) > 1
    assert {sample.finish_reason for sample in samples} <= {"end_of_text", "length"}
    for sample in samples:
        assert (len(sample.new_tokens) == 60) == (sample.finish_reason == "length")
        assert TOKENIZER.eot not in sample.new_tokens


def test_only_the_end_of_a_long_prompt_counts(net: GPT) -> None:
    long = encode_prompt(TOKENIZER, "abcdefgabcdefgabcdefg", eot_first=False)
    texts = [
        [sample.text for sample in generate(net, ids, num_samples=3, max_new_tokens=20, seed=1)]
        for ids in (long, long[-8:])
    ]
    assert texts[0] == texts[1]


def test_without_a_prompt_the_text_starts_after_end_of_text() -> None:
    assert encode_prompt(TOKENIZER, "", eot_first=False) == [TOKENIZER.eot]
    assert encode_prompt(TOKENIZER, "ab", eot_first=True) == [TOKENIZER.eot, 0, 1]
    assert encode_prompt(TOKENIZER, "ab", eot_first=False) == [0, 1]


def test_a_net_in_training_generates_without_dropout_and_stays_in_training(net: GPT) -> None:
    noisy = GPT(replace(net.config, dropout=0.5)).train()
    first, second = (generate(noisy, [1], GREEDY, max_new_tokens=10)[0] for _ in range(2))
    assert noisy.training and first.tokens == second.tokens
    assert math.isfinite(float(noisy(torch.tensor([[1]])).sum().detach()))


def test_logprobs_equal_the_models_before_sampling_settings(net: GPT) -> None:
    settings = SamplingConfig(temperature=0.5, top_k=4, repetition_penalty=1.5)
    samples = generate(
        net, [0, 1], settings, num_samples=5, max_new_tokens=6, logprobs=True, top_logprobs=2
    )
    plain = generate(net, [0, 1], settings, num_samples=5, max_new_tokens=6)
    assert [sample.tokens for sample in samples] == [sample.tokens for sample in plain]
    net.eval()
    for sample in samples:
        tokens = [0, 1, *sample.predicted_tokens]
        logits = net(torch.tensor([tokens[:-1]]))[0, :, : TOKENIZER.vocab_size].detach()
        logprobs = logits.log_softmax(dim=-1)
        expected = [float(logprobs[at - 1, tokens[at]]) for at in range(2, len(tokens))]
        assert sample.logprobs == pytest.approx(expected, abs=1e-5)
        assert sample.mean_logprob == pytest.approx(sum(expected) / len(expected), abs=1e-5)
        for at, top in enumerate(sample.top_logprobs, start=1):
            assert [token for token, _ in top] == logprobs[at].topk(2).indices.tolist()


def test_a_stop_string_ends_a_sample_and_never_appears(net: GPT) -> None:
    stops = ("ab", "ff", "gc", "cd", "ag", "ea", "da")
    plain = generate(net, [0], num_samples=20, max_new_tokens=40)
    shown: list[list[str]] = [[] for _ in range(20)]
    request = GenerationRequest(net, TOKENIZER, [0], num_samples=20, max_new_tokens=40, stop=stops)
    for samples in generate_steps(request):
        for texts, sample in zip(shown, samples, strict=True):
            texts.append(sample.text)
    assert {"stop"} < {sample.finish_reason for sample in samples}
    for texts, sample, whole in zip(shown, samples, plain, strict=True):
        cut = min((at for stop in stops if (at := whole.text.find(stop)) >= 0), default=None)
        assert sample.text == whole.text[:cut]
        assert (sample.finish_reason == "stop") == (cut is not None)
        assert all(sample.text.startswith(text) for text in texts)  # nothing is taken back
