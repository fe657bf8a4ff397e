"""Attention and positions as their equations say; a new part is one entry in a table."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from gptlab.config.schema import ModelConfig
from gptlab.model import layers
from gptlab.model.gpt import GPT

pytestmark = pytest.mark.fast
SMALL = ModelConfig(n_layer=2, n_head=2, d_model=8, context_length=6, vocab_size=11, init_std=0.5)


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_eager_attention_equals_fused_attention(position: str) -> None:
    config = replace(SMALL, position=position, d_model=16)
    torch.manual_seed(3)
    fused, eager = GPT(config), GPT(replace(config, attention="eager"))
    eager.load_state_dict(fused.state_dict())
    ids_BxT = torch.randint(0, 11, (3, 6))
    torch.testing.assert_close(fused(ids_BxT), eager(ids_BxT), rtol=1e-5, atol=1e-6)


def test_attention_weights_are_a_distribution_over_the_past() -> None:
    net = GPT(SMALL)
    x_BxTxD = torch.randn(2, 6, 8)
    weights_BxHxTxT = net.blocks[0].attention.weights(x_BxTxD)
    torch.testing.assert_close(weights_BxHxTxT.sum(-1), torch.ones(2, 2, 6))
    assert (weights_BxHxTxT.triu(1) == 0).all()


def test_sinusoidal_positions_interleave_sines_and_cosines() -> None:
    table_TxD = layers.SinusoidalPositions(ModelConfig(d_model=6, context_length=5)).table_TxD
    for position, i in product(range(5), range(3)):
        angle = torch.tensor(position / 10000 ** (2 * i / 6))
        assert table_TxD[position, 2 * i] == pytest.approx(angle.sin().item(), abs=1e-6)
        assert table_TxD[position, 2 * i + 1] == pytest.approx(angle.cos().item(), abs=1e-6)


def test_rotary_products_depend_only_on_the_distance() -> None:
    rotary = layers.RotaryPositions(ModelConfig(n_head=1, d_model=8, context_length=32))
    q, k = torch.randn(8), torch.randn(8)
    rotated_q = rotary.rotate(q.expand(1, 1, 32, 8))[0, 0]
    rotated_k = rotary.rotate(k.expand(1, 1, 32, 8))[0, 0]
    products = rotated_q @ rotated_k.T
    for distance in (0, 1, 7):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


class ReversedPositions(layers.Positions):
    def add(self, x_BxTxD: Tensor, start: int = 0) -> Tensor:
        return x_BxTxD.flip(-1)


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    return 2 * layers.fused_attention(q, k, v, causal, dropout)


@pytest.mark.parametrize(
    ("table", "key", "part"),
    [
        ("FEED_FORWARDS", "feed_forward", lambda config: nn.Linear(config.d_model, config.d_model)),
        ("POSITIONS", "position", ReversedPositions),
        ("NORMS", "norm_type", lambda config: nn.LayerNorm(config.d_model, eps=1.0)),
        ("RESIDUALS", "norm", lambda x, norm, sublayer: x + norm(sublayer(x))),
        ("ATTENTIONS", "attention", scaled_attention),
    ],
)
def test_one_table_entry_adds_a_layer(monkeypatch, table: str, key: str, part) -> None:
    def logits(config: ModelConfig) -> Tensor:
        torch.manual_seed(0)
        return GPT(config)(torch.arange(6)[None])

    monkeypatch.setitem(getattr(layers, table), "new", part)
    changed = logits(replace(SMALL, **{key: "new"}))
    assert changed.isfinite().all() and not torch.allclose(changed, logits(SMALL))
