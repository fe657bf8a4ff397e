"""The decoder against references, and causality as a property of every variant."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from gptlab.config.schema import ModelConfig
from gptlab.model import layers
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.hf.gpt2 import from_gpt2, to_gpt2_weights
from gptlab.utils.errors import UserError
from tests.conftest import ROOT

SMALL = ModelConfig(n_layer=2, n_head=2, d_model=8, context_length=6, vocab_size=11, init_std=0.5)

VARIANTS = [
    replace(
        SMALL,
        norm=norm,
        position=position,
        feed_forward=feed_forward,
        attention=attention,
        norm_type=norm_type,
        tied_head=tied,
        final_norm=not tied,
        bias=tied,
        scale_embeddings=tied,
        head_bias=not tied,
    )
    for norm, position, feed_forward, attention, norm_type, tied in product(
        layers.RESIDUALS,
        layers.POSITIONS,
        layers.FEED_FORWARDS,
        layers.ATTENTIONS,
        layers.NORMS,
        (0, 1),
    )
]


def test_no_variant_sees_the_future() -> None:
    """The gradient of output t is zero for every later input and for no earlier one."""
    torch.manual_seed(0)
    ids_1xT = torch.randint(0, 11, (1, 6))
    for config in VARIANTS:
        gradient_TxT = influence(GPT(config).double(), ids_1xT)
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        assert (gradient_TxT[later] == 0).all(), config
        assert (gradient_TxT[~later] > 0).all(), config


def test_the_leak_switch_leaks() -> None:
    for attention in layers.ATTENTIONS:
        net = GPT(replace(SMALL, attention=attention, let_attention_see_the_future=True)).double()
        assert (influence(net, torch.arange(6)[None]) > 0).all()


def influence(net: GPT, ids_1xT: torch.Tensor) -> torch.Tensor:
    """(T, T): how strongly the logits at t (row) depend on the embedding at s (column)."""
    embedded: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    handle = net.embedding.register_forward_hook(keep)
    logits_1xTxV = net(ids_1xT)
    handle.remove()
    # Random weights for the logits, since a norm makes their plain sum nearly constant.
    weights_V = torch.linspace(-1, 1, logits_1xTxV.shape[-1], dtype=logits_1xTxV.dtype) ** 3 + 0.1
    rows = []
    for t in range(ids_1xT.shape[1]):
        (g_1xTxD,) = torch.autograd.grad(
            (logits_1xTxV[0, t] * weights_V).sum(), embedded, retain_graph=True
        )
        rows.append(g_1xTxD[0].abs().sum(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_block_equals_torchs_encoder_layer(norm: str, activation: str) -> None:
    config = ModelConfig(
        n_layer=1, n_head=4, d_model=16, vocab_size=7, norm=norm, feed_forward=activation,
        position="none", final_norm=False, init_std=0.3,
    )  # fmt: skip
    torch.manual_seed(1)
    ours = GPT(config).blocks[0]
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "pre"
    )
    for norm_module in (ours.attention_norm, ours.feed_forward_norm):
        nn.init.normal_(norm_module.weight)
        nn.init.normal_(norm_module.bias)
    nn.init.normal_(ours.attention.qkv.bias)
    pairs = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight,
        "self_attn.in_proj_bias": ours.attention.qkv.bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        "linear1.weight": ours.feed_forward.up.weight,
        "linear1.bias": ours.feed_forward.up.bias,
        "linear2.weight": ours.feed_forward.down.weight,
        "linear2.bias": ours.feed_forward.down.bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.feed_forward_norm.weight,
        "norm2.bias": ours.feed_forward_norm.bias,
    }
    theirs.load_state_dict(pairs)
    x_BxTxD = torch.randn(3, 10, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(10)
    torch.testing.assert_close(
        ours(x_BxTxD), theirs(x_BxTxD, src_mask=mask, is_causal=True), rtol=1e-5, atol=1e-5
    )


def test_logits_equal_transformers_gpt2() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=101, n_positions=32, n_embd=48, n_layer=3, n_head=4)
    ).eval()
    for parameter in theirs.parameters():  # biases and norms away from zero and one
        nn.init.normal_(parameter, std=0.2)
    config = ModelConfig(
        n_layer=3, n_head=4, d_model=48, context_length=32, vocab_size=101, feed_forward="gelu_tanh"
    )
    ours = GPT(config).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    back = to_gpt2_weights(ours.state_dict(), ours.config)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(weight, back[name]) for name, weight in theirs.state_dict().items())
    ids_BxT = torch.randint(0, 101, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids_BxT), theirs(ids_BxT).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_written_out_attention_equals_the_fused_one(position: str) -> None:
    config = replace(SMALL, position=position, d_model=16)
    torch.manual_seed(3)
    fused, written = GPT(config), GPT(replace(config, attention="eager"))
    written.load_state_dict(fused.state_dict())
    ids_BxT = torch.randint(0, 11, (3, 6))
    torch.testing.assert_close(fused(ids_BxT), written(ids_BxT), rtol=1e-5, atol=1e-6)


def test_attention_weights_are_a_distribution_over_the_past() -> None:
    net = GPT(SMALL)
    x_BxTxD = torch.randn(2, 6, 8)
    weights_BxHxTxT = net.blocks[0].attention.weights(x_BxTxD)
    torch.testing.assert_close(weights_BxHxTxT.sum(-1), torch.ones(2, 2, 6))
    assert (weights_BxHxTxT.triu(1) == 0).all()


def test_sinusoidal_positions_are_interleaved() -> None:
    table_TxD = layers.SinusoidalPositions(ModelConfig(d_model=6, context_length=5)).table_TxD
    for position, i in product(range(5), range(3)):
        angle = torch.tensor(position / 10000 ** (2 * i / 6))
        assert table_TxD[position, 2 * i] == pytest.approx(angle.sin().item(), abs=1e-6)
        assert table_TxD[position, 2 * i + 1] == pytest.approx(angle.cos().item(), abs=1e-6)


def test_rotary_products_depend_on_distance_alone() -> None:
    rotary = layers.RotaryPositions(ModelConfig(n_head=1, d_model=8, context_length=32))
    q, k = torch.randn(8), torch.randn(8)
    rotated_q = rotary.rotate(q.expand(1, 1, 32, 8))[0, 0]
    rotated_k = rotary.rotate(k.expand(1, 1, 32, 8))[0, 0]
    products = rotated_q @ rotated_k.T
    for distance in (0, 1, 7):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


PRESETS = {
    "gpt2_4layer": (50257, 105_546_240),
    "gpt2_12layer": (50257, 162_250_752),
    "tiny_char": (82, 129 * 82 + 201_344),
    "gpt_16m": (50304, 16_299_520),
    "small": (50257, 124_439_808),
    "medium": (50257, 354_823_168),
    "large": (50257, 774_030_080),
    "xl": (50257, 1_557_611_200),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    import yaml

    vocab_size, expected = PRESETS[name]
    settings = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    settings.pop("defaults", None)
    with torch.device("meta"):
        net = GPT(ModelConfig(**{"vocab_size": vocab_size, **settings}))
    assert count_parameters(net) == expected


def test_two_layers_of_gpt2_4layer() -> None:
    import yaml

    settings = yaml.safe_load((ROOT / "conf" / "model" / "gpt2_4layer.yaml").read_text())
    with torch.device("meta"):
        net = GPT(ModelConfig(**settings | {"n_layer": 2, "vocab_size": 50257}))
    assert count_parameters(net) == 91_370_496


@pytest.mark.parametrize(
    ("key", "value"),
    [("norm", "before"), ("position", "absolute"), ("feed_forward", "gelo"), ("attention", "x")],
)
def test_a_name_in_no_table_is_refused_with_the_choices(key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}={value}.*choices are"):
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


def test_residual_outputs_begin_smaller() -> None:
    net = GPT(ModelConfig(n_layer=8, d_model=128, vocab_size=50, init_std=0.02))
    for block in net.blocks:
        for inner, outer in (
            (block.attention.qkv, block.attention.out),
            (block.feed_forward.up, block.feed_forward.down),
        ):
            assert inner.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert outer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
