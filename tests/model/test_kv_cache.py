"""With a cache the model says what it says without, at every position and for every variant."""

import itertools
from dataclasses import replace

import pytest
import torch

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation import quantize
from gptlab.generation.context import ContextWindow
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.gpt import GPT
from gptlab.model.layers import ATTENTIONS, FEED_FORWARDS, NORMS, POSITIONS, RESIDUALS

TOKENIZER = CharTokenizer.train(["abcdefghij"], TokenizerConfig())
SMALL = ModelConfig(
    n_layer=3, n_head=2, d_model=16, context_length=12, vocab_size=13, init_std=0.3
)  # fmt: skip
VARIANTS = [
    *(
        {"position": p, "norm": n, "attention": a}
        for p, n, a in itertools.product(POSITIONS, RESIDUALS, ATTENTIONS)
    ),
    *({"feed_forward": name} for name in FEED_FORWARDS),
    *({"norm_type": name} for name in NORMS),
    {"bias": False, "final_norm": False, "tied_head": False, "head_bias": True},
    {"scale_embeddings": True, "position": "sinusoidal", "dropout": 0.5, "attention_dropout": 0.5},
    {"trained_length": 7},
    {"let_attention_see_the_future": True},
]


def a_net(**changes: object) -> GPT:
    torch.manual_seed(1)
    return GPT(replace(SMALL, **changes)).eval()


def generate(net: GPT, prompt: list[int], sampling: SamplingConfig, *more, **rest) -> list[Sample]:
    return generate_samples(GenerationRequest(net, TOKENIZER, prompt, sampling, *more, **rest))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@torch.inference_mode()
def test_logits_are_those_without_a_cache(changes: dict) -> None:
    net = a_net(**changes)
    window = net.config.window
    chance = torch.Generator().manual_seed(3)
    for begins in (1, 5, window, window + 3):
        prompt = torch.randint(13, (begins,), generator=chance).tolist()
        cached, plain = (ContextWindow(net, prompt, 1000, cached) for cached in (True, False))
        for step in range(40):
            found, wanted = cached.logits(), plain.logits()
            assert float((found - wanted).abs().max()) <= 1e-5
            seen = cached.ids_BxT.shape[1]
            torch.testing.assert_close(wanted, net(cached.ids_BxT)[:, -1])
            assert seen <= window and (seen > window // 2 or seen == begins + step)
            if step == 4:
                for context in (cached, plain):
                    context.select([0, 0, 0])
            if step == 9:
                for context in (cached, plain):
                    context.select([2, 0])
            tokens = torch.randint(13, (len(cached.ids_BxT),), generator=chance).tolist()
            for context in (cached, plain):
                context.append(tokens)


@torch.inference_mode()
def test_several_tokens_at_once_see_no_future() -> None:
    for attention in ATTENTIONS:
        net = a_net(position="rotary", attention=attention)
        ids = torch.arange(12)[None]
        whole = net.hidden(ids)
        cache = net.make_cache(1, 12)
        parts = [net.hidden_cached(part, cache) for part in ids.split((5, 4, 1, 2), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)


def test_a_token_reads_itself_alone() -> None:
    net = a_net()
    lengths = []
    net.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[:2]))
    generate(net, [1, 2, 3], SamplingConfig(temperature=0.0), num_samples=4, max_new_tokens=8)
    assert lengths[0] == (1, 3)  # the prompt, once for all samples
    assert all(tokens == 1 for _, tokens in lengths[1:]) and len(lengths) > 1


def test_the_cache_is_as_long_as_the_text_will_be() -> None:
    net = a_net()
    assert ContextWindow(net, [1, 2], 5).cache.kv_2xLxBxHxWxK.shape == (2, 3, 1, 2, 5, 8)
    assert ContextWindow(net, [1, 2], 10**6).cache.kv_2xLxBxHxWxK.shape == (2, 3, 1, 2, 12, 8)
    with pytest.raises(ValueError, match="future"):
        a_net(let_attention_see_the_future=True).make_cache(1, 12)


def test_the_same_text_with_and_without() -> None:
    for changes in ({}, {"position": "rotary"}, {"let_attention_see_the_future": True}):
        net = a_net(**changes)
        arguments = (net, [1, 2], SamplingConfig(), 5, 60, 9)
        texts = [
            [s.text for s in generate(*arguments, use_cache=cached)] for cached in (True, False)
        ]
        assert texts[0] == texts[1] and len(set(texts[0])) > 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_for_a_few_rows_are_those_of_the_layer(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for bias, outputs in itertools.product((True, False), (1030, 1031)):
        net = torch.nn.Sequential(torch.nn.Linear(256, outputs, bias))
        for rows in (1, 2, 5, 8, 9, 30):
            x = torch.randn(rows, 1, 256)
            wanted = net(x)
            with quantize.fast_linears(net):
                assert net[0].weight.numel() >= quantize.MIN_WEIGHTS
                torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
        assert "forward" not in vars(net[0])


def test_weights_in_eight_bits_say_nearly_the_same() -> None:
    net = a_net(d_model=64, head_bias=True, tied_head=False)
    ids = torch.randint(13, (4, 12))
    wanted = net(ids).log_softmax(dim=-1).detach()
    layer = net.blocks[0].feed_forward.up
    exact = layer.weight.detach().clone()
    quantize.quantize_linears(net, "int8")
    assert not [m for m in net.modules() if type(m) is torch.nn.Linear]
    rounded = net.blocks[0].feed_forward.up
    error = (rounded.integers_OxI * rounded.scale_O[:, None] - exact).abs()
    assert (error <= rounded.scale_O[:, None] / 2 + 1e-7).all()
    difference = (net(ids).log_softmax(dim=-1).detach() - wanted).square().mean().sqrt()
    assert 1e-4 < float(difference / wanted.std()) < 0.05
    (sample,) = generate(net, [1], SamplingConfig(temperature=0.0), 1, 5)
    assert sample.finish_reason


@pytest.mark.parametrize("inputs", [1, 20, 33, 100, 170, 341])
def test_eight_bits_of_any_width(inputs: int) -> None:
    layer = torch.nn.Linear(inputs, 80)
    x = torch.randn(7, inputs)
    found, wanted = quantize.Int8Linear(layer)(x), layer(x).detach()
    assert float((found - wanted).detach().abs().max()) < 0.05


def test_weights_in_bfloat16_write_too() -> None:
    net = a_net(position="rotary", tied_head=False, head_bias=True)
    ids = torch.randint(13, (2, 12))
    wanted = net(ids).detach()
    quantize.quantize_linears(net, "bfloat16")
    assert net.head.weight_OxI.dtype == torch.bfloat16
    difference = (net(ids).detach() - wanted).square().mean().sqrt() / wanted.std()
    assert 1e-5 < float(difference) < 0.02
    assert generate(net, [1, 2], SamplingConfig(), 3, 30)[0].new_tokens
