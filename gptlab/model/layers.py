"""The decoder's interchangeable parts, each kind in a table that the configuration names.

In shapes, B is the batch, T the tokens in the window, D d_model, F d_ff, H heads, K = D / H.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.schema import ModelConfig
from gptlab.model.kv_cache import LayerKVCache
from gptlab.utils.errors import resolve_choice

# Where the norm stands: before the sublayer f, or after the sum. Xiong and others (2020),
# "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745.
RESIDUALS: dict[str, Callable[[Tensor, Callable, Callable], Tensor]] = {
    "pre": lambda x, norm, f: x + f(norm(x)),
    "post": lambda x, norm, f: norm(x + f(x)),
}


def layer_norm(config: ModelConfig) -> nn.Module:
    return nn.LayerNorm(config.d_model, bias=config.bias)


def rms_norm(config: ModelConfig) -> nn.Module:
    return nn.RMSNorm(config.d_model, eps=1e-5)


NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}


class FeedForward(nn.Module):
    """Two matrices with a nonlinearity between: D → F → D, each token for itself."""

    def __init__(self, config: ModelConfig, activation: Callable[[Tensor], Tensor]):
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
    """GPT-2's approximation of GELU. Hendrycks and Gimpel (2016), arXiv:1606.08415."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """relu(x)². So and others (2021), "Primer", arXiv:2109.08668."""
    return F.relu(x).square()


FEED_FORWARDS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "relu": lambda config: FeedForward(config, F.relu),
    "gelu": lambda config: FeedForward(config, F.gelu),
    "gelu_tanh": lambda config: FeedForward(config, gelu_tanh),
    "relu2": lambda config: FeedForward(config, relu2),
    "swiglu": SwiGLU,
}


class Positions(nn.Module):
    """How a token knows where it stands; this one adds nothing, the others override a method."""

    def __init__(self, config: ModelConfig):
        super().__init__()

    def add(self, x_BxTxD: Tensor, first: int = 0) -> Tensor:
        """Token embeddings, with their positions, from `first` on, if these are added to them."""
        return x_BxTxD

    def rotate(self, x_BxHxTxK: Tensor, first: int = 0) -> Tensor:
        """Queries or keys, with their positions if these are turned into them."""
        return x_BxHxTxK


class SinusoidalPositions(Positions):
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), the cosine at 2i + 1. Vaswani and others (2017)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        angles_TxD = angles(config.context_length, config.d_model)
        table_TxD = torch.stack((angles_TxD.sin(), angles_TxD.cos()), dim=-1).flatten(1)
        self.register_buffer("table_TxD", table_TxD.float(), persistent=False)

    def add(self, x_BxTxD: Tensor, first: int = 0) -> Tensor:
        return x_BxTxD + self.table_TxD[first : first + x_BxTxD.shape[1]]


class LearnedPositions(Positions):
    """A trained vector for each position, as in GPT-2."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.table = nn.Embedding(config.context_length, config.d_model)

    def add(self, x_BxTxD: Tensor, first: int = 0) -> Tensor:
        return x_BxTxD + self.table.weight[first : first + x_BxTxD.shape[1]]


class RotaryPositions(Positions):
    """Turns each pair (i, i + K/2) by an angle that grows with the position, so that products of
    queries and keys depend on distance alone. Su and others (2021), arXiv:2104.09864."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        angles_TxK = angles(config.context_length, config.d_model // config.n_head).repeat(1, 2)
        self.register_buffer("cos_TxK", angles_TxK.cos().float(), persistent=False)
        self.register_buffer("sin_TxK", angles_TxK.sin().float(), persistent=False)

    def rotate(self, x_BxHxTxK: Tensor, first: int = 0) -> Tensor:
        here = slice(first, first + x_BxHxTxK.shape[2])
        left, right = x_BxHxTxK.chunk(2, dim=-1)
        turned = torch.cat((-right, left), dim=-1)
        rotated = x_BxHxTxK * self.cos_TxK[here] + turned * self.sin_TxK[here]
        return rotated.to(x_BxHxTxK.dtype)


def angles(length: int, width: int) -> Tensor:
    """(length, width / 2) in float64: position / 10000^(2i / width)."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


POSITIONS: dict[str, Callable[[ModelConfig], Positions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
    "none": Positions,
}


def fused_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Attention by PyTorch's fused kernel. Queries (B, H, T, K) are of the last T of the S tokens
    whose keys and values there are, (B, H, S, K)."""
    mask = None
    if causal and q.shape[2] != k.shape[2]:
        causal = False  # the kernel would take the queries for the first tokens'
        mask = ~future_mask(q, k) if q.shape[2] > 1 else None  # the last token sees all
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, dropout_p=dropout)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """The same mathematics to read: softmax(q·kᵀ / √K) · v."""
    return F.dropout(attention_weights(q, k, causal), dropout) @ v


def attention_weights(q_BxHxTxK: Tensor, k_BxHxSxK: Tensor, causal: bool) -> Tensor:
    """(B, H, T, S): how much each token (row) takes from each token (column); rows sum to 1."""
    scores_BxHxTxS = q_BxHxTxK @ k_BxHxSxK.transpose(-2, -1) / math.sqrt(q_BxHxTxK.shape[-1])
    if causal:
        scores_BxHxTxS = scores_BxHxTxS.masked_fill(
            future_mask(q_BxHxTxK, k_BxHxSxK), float("-inf")
        )
    return scores_BxHxTxS.softmax(dim=-1)


def future_mask(q_BxHxTxK: Tensor, k_BxHxSxK: Tensor) -> Tensor:
    """(T, S): which tokens come after each of the last T of S."""
    T, S = q_BxHxTxK.shape[2], k_BxHxSxK.shape[2]
    return torch.ones(T, S, dtype=torch.bool, device=q_BxHxTxK.device).triu(1 + S - T)


ATTENTIONS = {"fused": fused_attention, "eager": eager_attention}


class CausalSelfAttention(nn.Module):
    """Each token gathers from itself and from those before it, in H heads of width K."""

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

    def heads(self, x_BxTxD: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, T, K), positions from `first` on turned in."""
        B, T, D = x_BxTxD.shape
        qkv = self.qkv(x_BxTxD).view(B, T, 3, self.n_head, D // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.rotate(q, first), self.rotate(k, first), v

    def forward(self, x_BxTxD: Tensor, cache: LayerKVCache | None = None) -> Tensor:
        if cache is None:
            q, k, v = self.heads(x_BxTxD)
        else:
            q, k, v = self.heads(x_BxTxD, cache.length)
            k, v = cache.extend(k, v)
        y_BxHxTxK = self.attend(q, k, v, self.causal, self.dropout if self.training else 0.0)
        return self.out(y_BxHxTxK.transpose(1, 2).flatten(2))

    def weights(self, x_BxTxD: Tensor) -> Tensor:
        """(B, H, T, T): the attention weights for this sublayer's input, to look into."""
        q, k, _ = self.heads(x_BxTxD)
        return attention_weights(q, k, self.causal)
