"""Define the decoder's interchangeable layers; the config names an entry of each table.

In shapes: B batch, T tokens, D d_model, F d_ff, H heads, K = D / H.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.schema import ModelConfig
from gptlab.model.kv_cache import LayerKVCache
from gptlab.utils.plugins import PluginError, resolve_choice

# --- Residual connections (model.norm) ---

Layer = Callable[[Tensor], Tensor]


def pre_norm(x: Tensor, norm: Layer, sublayer: Layer) -> Tensor:
    """Normalize the sublayer's input. Xiong et al. (2020), arXiv:2002.04745."""
    return x + sublayer(norm(x))


def post_norm(x: Tensor, norm: Layer, sublayer: Layer) -> Tensor:
    """Normalize the sum, as in the original transformer. Vaswani et al. (2017)."""
    return norm(x + sublayer(x))


RESIDUALS: dict[str, Callable[[Tensor, Layer, Layer], Tensor]] = {
    "pre": pre_norm,
    "post": post_norm,
}


def make_layer(
    key: str, table: Mapping[str, Callable[[ModelConfig], nn.Module]], config: ModelConfig
) -> nn.Module:
    """Build the layer that the model's key selects; raise UserError if there is no such layer."""
    name = getattr(config, key)
    layer = resolve_choice(f"model.{key}", name, table)(config)
    if not isinstance(layer, nn.Module):
        kind = type(layer).__name__
        raise PluginError(f"model.{key}={name}: must make an nn.Module, not {kind}")
    return layer


# --- Norms (model.norm_type) ---

NORMS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "layernorm": lambda config: nn.LayerNorm(config.d_model, bias=config.bias),
    "rmsnorm": lambda config: nn.RMSNorm(config.d_model, eps=1e-5),
}


# --- Feed-forward networks (model.feed_forward) ---


class FeedForward(nn.Module):
    """Two linear layers with an activation in between: D → F → D, for each token separately."""

    def __init__(self, config: ModelConfig, activation: Layer):
        super().__init__()
        width = config.d_ff or 4 * config.d_model
        self.activation = activation
        self.up = nn.Linear(config.d_model, width, bias=config.bias)
        self.down = nn.Linear(width, config.d_model, bias=config.bias)

    def forward(self, x_BxTxD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BxTxD)))


class SwiGLU(nn.Module):
    """A gated feed-forward: down(silu(gate(x)) · up(x)). Shazeer (2020), arXiv:2002.05202."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.d_ff or 4 * config.d_model
        self.gate = nn.Linear(config.d_model, width, bias=config.bias)
        self.up = nn.Linear(config.d_model, width, bias=config.bias)
        self.down = nn.Linear(width, config.d_model, bias=config.bias)

    def forward(self, x_BxTxD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BxTxD)) * self.up(x_BxTxD))


def gelu_tanh(x: Tensor) -> Tensor:
    """Compute GPT-2's approximation of GELU. Hendrycks and Gimpel (2016), arXiv:1606.08415."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """Compute relu(x)². So et al. (2021), "Primer", arXiv:2109.08668."""
    return F.relu(x).square()


FEED_FORWARDS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "relu": lambda config: FeedForward(config, F.relu),
    "gelu": lambda config: FeedForward(config, F.gelu),
    "gelu_tanh": lambda config: FeedForward(config, gelu_tanh),
    "relu2": lambda config: FeedForward(config, relu2),
    "swiglu": SwiGLU,
}


# --- Positions (model.position) ---


class Positions(nn.Module):
    """The interface of position encodings, and the encoding `none`. Subclasses override a method.

    Tokens are at positions `start`, `start` + 1, …
    """

    def __init__(self, config: ModelConfig):
        super().__init__()

    def add(self, x_BxTxD: Tensor, start: int = 0) -> Tensor:
        """Add positions to token embeddings."""
        return x_BxTxD

    def rotate(self, x_BxHxTxK: Tensor, start: int = 0) -> Tensor:
        """Rotate queries or keys by their positions."""
        return x_BxHxTxK


class SinusoidalPositions(Positions):
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), with the cosine at 2i + 1. Vaswani et al. (2017)."""

    table_TxD: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        angles_TxD = position_angles(config.context_length, config.d_model)
        table_TxD = torch.stack((angles_TxD.sin(), angles_TxD.cos()), dim=-1).flatten(1)
        self.register_buffer("table_TxD", table_TxD.float(), persistent=False)

    def add(self, x_BxTxD: Tensor, start: int = 0) -> Tensor:
        return x_BxTxD + self.table_TxD[start : start + x_BxTxD.shape[1]]


class LearnedPositions(Positions):
    """A trained vector for each position, as in GPT-2."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.table = nn.Embedding(config.context_length, config.d_model)

    def add(self, x_BxTxD: Tensor, start: int = 0) -> Tensor:
        return x_BxTxD + self.table.weight[start : start + x_BxTxD.shape[1]]


class RotaryPositions(Positions):
    """Rotate each pair (i, i + K/2) by an angle proportional to the position, so that products of
    queries and keys depend only on their distance. Su et al. (2021), arXiv:2104.09864."""

    cos_TxK: Tensor
    sin_TxK: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        head_dim = config.d_model // config.n_head
        angles_TxK = position_angles(config.context_length, head_dim).repeat(1, 2)
        self.register_buffer("cos_TxK", angles_TxK.cos().float(), persistent=False)
        self.register_buffer("sin_TxK", angles_TxK.sin().float(), persistent=False)

    def rotate(self, x_BxHxTxK: Tensor, start: int = 0) -> Tensor:
        positions = slice(start, start + x_BxHxTxK.shape[2])
        left, right = x_BxHxTxK.chunk(2, dim=-1)
        turned = torch.cat((-right, left), dim=-1)
        rotated = x_BxHxTxK * self.cos_TxK[positions] + turned * self.sin_TxK[positions]
        return rotated.to(x_BxHxTxK.dtype)


def position_angles(length: int, width: int) -> Tensor:
    """Return position / 10000^(2i / width), (length, width / 2), in float64."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


POSITIONS: dict[str, Callable[[ModelConfig], Positions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
    "none": Positions,
}


def make_positions(config: ModelConfig) -> Positions:
    """Build the position encoding of `model.position`; raise UserError if there is none."""
    positions = make_layer("position", POSITIONS, config)
    if not isinstance(positions, Positions):
        kind = type(positions).__name__
        raise PluginError(f"model.position={config.position}: must make Positions, not {kind}")
    return positions


# --- Attention (model.attention) ---


def fused_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Compute attention with PyTorch's fused kernel.

    q, (B, H, T, K), has the last T of the S tokens in k and v, (B, H, S, K).
    """
    mask = None
    if causal and q.shape[2] != k.shape[2]:
        causal = False  # the kernel would align the queries with the first T tokens
        mask = ~future_mask(q, k) if q.shape[2] > 1 else None  # the last token sees all
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, dropout_p=dropout)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Compute attention in plain operations: softmax(q·kᵀ / √K) · v."""
    return F.dropout(attention_weights(q, k, causal), dropout) @ v


def attention_weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Return how much each token (row) attends to each (column), (B, H, T, S); rows sum to 1."""
    scores_BxHxTxS = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        scores_BxHxTxS = scores_BxHxTxS.masked_fill(future_mask(q, k), -torch.inf)
    return scores_BxHxTxS.softmax(dim=-1)


def future_mask(q: Tensor, k: Tensor) -> Tensor:
    """Return which tokens come after each of the last T of S tokens, (T, S)."""
    T, S = q.shape[2], k.shape[2]
    return torch.ones(T, S, dtype=torch.bool, device=q.device).triu(1 + S - T)


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, bool, float], Tensor]] = {
    "fused": fused_attention,
    "eager": eager_attention,
}


class CausalSelfAttention(nn.Module):
    """Multi-head attention: each token attends to itself and the tokens before it."""

    def __init__(self, config: ModelConfig, positions: Positions):
        super().__init__()
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=qkv_bias)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.attend = resolve_choice("model.attention", config.attention, ATTENTIONS)
        self.rotate = positions.rotate
        self.n_head = config.n_head
        self.dropout = config.attention_dropout
        self.causal = not config.let_attention_see_the_future

    def forward(self, x_BxTxD: Tensor, cache: LayerKVCache | None = None) -> Tensor:
        q, k, v = self.queries_keys_values(x_BxTxD, start=cache.length if cache else 0)
        if cache is not None:
            k, v = cache.extend(k, v)
        y_BxHxTxK = self.attend(q, k, v, self.causal, self.dropout if self.training else 0.0)
        return self.out(y_BxHxTxK.transpose(1, 2).flatten(2))

    def queries_keys_values(self, x_BxTxD: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, H, T, K) each, rotated by their positions."""
        B, T, D = x_BxTxD.shape
        qkv = self.qkv(x_BxTxD).view(B, T, 3, self.n_head, D // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.rotate(q, start), self.rotate(k, start), v

    def weights(self, x_BxTxD: Tensor) -> Tensor:
        """Return the attention weights for this layer's input, (B, H, T, T)."""
        q, k, _ = self.queries_keys_values(x_BxTxD)
        if self.attend in ATTENTIONS.values():
            return attention_weights(q, k, self.causal)
        B, H, T, _ = q.shape  # another package's function: its outputs for one-hot values
        one_hot_BxHxTxT = torch.eye(T, dtype=q.dtype, device=q.device).expand(B, H, T, T)
        return self.attend(q, k, one_hot_BxHxTxT, self.causal, 0.0)
