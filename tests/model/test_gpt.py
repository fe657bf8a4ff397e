"""The decoder against reference implementations, and causality for its variants."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import yaml
from torch import nn

from gptlab.config.schema import ModelConfig
from gptlab.model import layers
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.hf.gpt2 import from_gpt2, to_gpt2_weights
from gptlab.utils.errors import UserError
from tests.conftest import ROOT

SMALL = ModelConfig(n_layer=2, n_head=2, d_model=8, context_length=6, vocab_size=11, init_std=0.5)
# Every residual, position, attention and feed-forward, with the other choices in turn.
VARIANTS = [
    replace(
        SMALL,
        norm=norm,
        position=position,
        attention=attention,
        feed_forward=feed_forward,
        norm_type=list(layers.NORMS)[number % 2],
        tied_head=(tied := number % 4 < 2),
        final_norm=not tied,
        bias=tied,
        scale_embeddings=tied,
        head_bias=not tied,
    )
    for number, (feed_forward, norm, position, attention) in enumerate(
        product(layers.FEED_FORWARDS, layers.RESIDUALS, layers.POSITIONS, layers.ATTENTIONS)
    )
]


def gradient_norms(net: GPT, ids_1xT: torch.Tensor) -> torch.Tensor:
    """Return how strongly the logits at t (row) depend on the embedding at s (column), (T, T)."""
    embedded: list[torch.Tensor] = []

    def record(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    handle = net.embedding.register_forward_hook(record)
    logits_1xTxV = net(ids_1xT)
    handle.remove()
    # Weighted sums of logits, since a norm makes their plain sum nearly constant.
    weights_V = torch.linspace(-1, 1, logits_1xTxV.shape[-1], dtype=logits_1xTxV.dtype) ** 3 + 0.1
    rows = []
    for logits_V in logits_1xTxV[0]:
        (g_1xTxD,) = torch.autograd.grad((logits_V * weights_V).sum(), embedded, retain_graph=True)
        rows.append(g_1xTxD[0].abs().sum(-1))
    return torch.stack(rows)


@pytest.mark.fast
def test_no_variant_sees_the_future() -> None:
    """The gradient of output t is zero for every later input and for no earlier one."""
    torch.manual_seed(0)
    ids_1xT = torch.randint(0, 11, (1, 6))
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for config in VARIANTS:
        gradient_TxT = gradient_norms(GPT(config).double(), ids_1xT)
        assert (gradient_TxT[later] == 0).all(), config
        assert (gradient_TxT[~later] > 0).all(), config


def test_the_leak_switch_lets_attention_see_the_future() -> None:
    for attention in layers.ATTENTIONS:
        net = GPT(replace(SMALL, attention=attention, let_attention_see_the_future=True)).double()
        assert (gradient_norms(net, torch.arange(6)[None]) > 0).all()


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_block_equals_torchs_encoder_layer(norm: str, activation: str) -> None:
    config = ModelConfig(
        n_layer=1, n_head=4, d_model=16, vocab_size=7, norm=norm, feed_forward=activation,
        position="none", final_norm=False, init_std=0.3,
    )  # fmt: skip
    torch.manual_seed(1)
    block = GPT(config).blocks[0]
    reference = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "pre"
    )
    for norm_layer in (block.attention_norm, block.feed_forward_norm):
        nn.init.normal_(norm_layer.weight)
        nn.init.normal_(norm_layer.bias)
    nn.init.normal_(block.attention.qkv.bias)
    weights = {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.out.weight,
        "self_attn.out_proj.bias": block.attention.out.bias,
        "linear1.weight": block.feed_forward.up.weight,
        "linear1.bias": block.feed_forward.up.bias,
        "linear2.weight": block.feed_forward.down.weight,
        "linear2.bias": block.feed_forward.down.bias,
        "norm1.weight": block.attention_norm.weight,
        "norm1.bias": block.attention_norm.bias,
        "norm2.weight": block.feed_forward_norm.weight,
        "norm2.bias": block.feed_forward_norm.bias,
    }
    reference.load_state_dict(weights)
    x_BxTxD = torch.randn(3, 10, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(10)
    expected = reference(x_BxTxD, src_mask=mask, is_causal=True)
    torch.testing.assert_close(block(x_BxTxD), expected, rtol=1e-5, atol=1e-5)


def test_logits_equal_those_of_transformers_gpt2() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    reference = GPT2LMHeadModel(
        GPT2Config(vocab_size=101, n_positions=32, n_embd=48, n_layer=3, n_head=4)
    ).eval()
    for parameter in reference.parameters():  # biases and norms away from zero and one
        nn.init.normal_(parameter, std=0.2)
    config = ModelConfig(
        n_layer=3, n_head=4, d_model=48, context_length=32, vocab_size=101, feed_forward="gelu_tanh"
    )
    net = GPT(config).eval()
    net.load_state_dict(from_gpt2(reference.state_dict()))
    exported = to_gpt2_weights(net.state_dict(), net.config)
    assert exported.keys() == reference.state_dict().keys()
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, exported[name])
    ids_BxT = torch.randint(0, 101, (2, 32))
    with torch.no_grad():
        expected = reference(ids_BxT).logits
        torch.testing.assert_close(net(ids_BxT), expected, rtol=0, atol=1e-5)


PRESETS = {  # vocabulary, parameters
    "gpt2_4layer": (50257, 105_546_240),
    "gpt2_12layer": (50257, 162_250_752),
    "tiny_char": (82, 129 * 82 + 201_344),
    "gpt_16m": (50304, 16_299_520),
    "small": (50257, 124_439_808),
    "medium": (50257, 354_823_168),
    "large": (50257, 774_030_080),
    "xl": (50257, 1_557_611_200),
}


def count_preset_parameters(name: str, **changes: int) -> int:
    settings = yaml.safe_load(
        (ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    settings.pop("defaults", None)
    with torch.device("meta"):
        return count_parameters(GPT(ModelConfig(**settings | changes)))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    vocab_size, expected = PRESETS[name]
    assert count_preset_parameters(name, vocab_size=vocab_size) == expected


def test_gpt2_4layer_with_two_layers_has_the_published_number_of_parameters() -> None:
    assert count_preset_parameters("gpt2_4layer", n_layer=2, vocab_size=50257) == 91_370_496


@pytest.mark.parametrize(
    ("key", "value"),
    [("norm", "before"), ("position", "absolute"), ("feed_forward", "gelo"), ("attention", "x")],
)
def test_an_unknown_layer_name_is_refused_with_the_choices(key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}={value}.*choose from"):
        GPT(replace(SMALL, **{key: value}))


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    net = GPT(replace(SMALL, dropout=0.5))
    ids_BxT = torch.randint(0, 11, (1, 6))
    assert torch.equal(net.eval()(ids_BxT), net(ids_BxT))
    assert not torch.equal(net.train()(ids_BxT), net(ids_BxT))


def test_embeddings_are_scaled_on_request() -> None:
    net = GPT(replace(SMALL, position="none", scale_embeddings=True))
    ids_BxT = torch.arange(6)[None]
    torch.testing.assert_close(net.embed(ids_BxT), net.embedding(ids_BxT) * 8**0.5)


def test_residual_outputs_are_initialized_smaller() -> None:
    net = GPT(ModelConfig(n_layer=8, d_model=128, vocab_size=50, init_std=0.02))
    for block in net.blocks:
        for inner, outer in (
            (block.attention.qkv, block.attention.out),
            (block.feed_forward.up, block.feed_forward.down),
        ):
            assert inner.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert outer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
