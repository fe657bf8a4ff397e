"""Fast and quantized linear layers compute nearly the same as the original ones."""

import itertools

import pytest
import torch

from gptlab.config.schema import ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation import quantize
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT

TOKENIZER = CharTokenizer.train(["abcdefghij"], TokenizerConfig())


def make_net(d_model: int = 16, position: str = "learned") -> GPT:
    torch.manual_seed(1)
    config = ModelConfig(
        n_layer=3, n_head=2, d_model=d_model, context_length=12, vocab_size=13, init_std=0.3,
        position=position, tied_head=False, head_bias=True,
    )  # fmt: skip
    return GPT(config).eval()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fast_linears_equal_the_layer_for_any_number_of_rows(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for bias, outputs in itertools.product((True, False), (1030, 1031)):
        net = torch.nn.Sequential(torch.nn.Linear(256, outputs, bias))
        assert net[0].weight.numel() >= quantize.MIN_WEIGHTS
        for rows in (1, 2, 5, 8, 9, 30):
            x = torch.randn(rows, 1, 256)
            expected = net(x)
            with quantize.fast_linears(net):
                torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
        assert "forward" not in vars(net[0])


def test_int8_weights_change_the_predictions_little() -> None:
    net = make_net(d_model=64)
    ids = torch.randint(13, (4, 12))
    expected = net(ids).log_softmax(dim=-1).detach()
    exact = net.blocks[0].feed_forward.up.weight.detach().clone()
    quantize.quantize_linears(net, "int8")
    assert not [m for m in net.modules() if type(m) is torch.nn.Linear]
    layer = net.blocks[0].feed_forward.up
    error = (layer.integers_OxI * layer.scale_O[:, None] - exact).abs()
    assert (error <= layer.scale_O[:, None] / 2 + 1e-7).all()
    difference = (net(ids).log_softmax(dim=-1).detach() - expected).square().mean().sqrt()
    assert 1e-4 < float(difference / expected.std()) < 0.05
    greedy = SamplingConfig(temperature=0.0)
    (sample,) = generate_samples(GenerationRequest(net, TOKENIZER, [1], greedy, max_new_tokens=5))
    assert sample.finish_reason


@pytest.mark.parametrize("inputs", [1, 20, 33, 100, 170, 341])
def test_int8_layers_work_for_any_width(inputs: int) -> None:
    layer = torch.nn.Linear(inputs, 80)
    x = torch.randn(7, inputs)
    actual, expected = quantize.Int8Linear(layer)(x), layer(x).detach()
    assert float((actual - expected).detach().abs().max()) < 0.05


def test_bfloat16_weights_change_the_predictions_little() -> None:
    net = make_net(position="rotary")
    ids = torch.randint(13, (2, 12))
    expected = net(ids).detach()
    quantize.quantize_linears(net, "bfloat16")
    assert net.head.weight_OxI.dtype == torch.bfloat16
    difference = (net(ids).detach() - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < float(difference) < 0.02
    request = GenerationRequest(net, TOKENIZER, [1, 2], num_samples=3, max_new_tokens=30)
    assert generate_samples(request)[0].new_tokens
