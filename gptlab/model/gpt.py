"""Define the whole decoder: embedding → blocks → norm → head. Its layers are in layers.py.

In shapes: B batch, T tokens, D d_model, V vocabulary (for a classifier, its classes).
"""

import math

from torch import Tensor, nn

from gptlab.config.schema import ModelConfig
from gptlab.model import layers
from gptlab.model.kv_cache import KVCache, LayerKVCache
from gptlab.model.loss import MAX_LOGITS, head_cross_entropy
from gptlab.utils.plugins import resolve_choice


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual connection, a norm and dropout."""

    def __init__(self, config: ModelConfig, positions: layers.Positions):
        super().__init__()
        self.residual = resolve_choice("model.norm", config.norm, layers.RESIDUALS)
        self.attention_norm = layers.make_layer("norm_type", layers.NORMS, config)
        self.attention = layers.CausalSelfAttention(config, positions)
        self.feed_forward_norm = layers.make_layer("norm_type", layers.NORMS, config)
        self.feed_forward = layers.make_layer("feed_forward", layers.FEED_FORWARDS, config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BxTxD: Tensor, cache: LayerKVCache | None = None) -> Tensor:
        def attend(y_BxTxD: Tensor) -> Tensor:
            return self.dropout(self.attention(y_BxTxD, cache))

        def feed_forward(y_BxTxD: Tensor) -> Tensor:
            return self.dropout(self.feed_forward(y_BxTxD))

        x_BxTxD = self.residual(x_BxTxD, self.attention_norm, attend)
        return self.residual(x_BxTxD, self.feed_forward_norm, feed_forward)


class GPT(nn.Module):
    """A decoder-only transformer. Raises UserError for an unknown layer name."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.vocab_size is not None, "the vocabulary size comes from the tokenizer"
        self.config = config
        self.max_logits = MAX_LOGITS  # logits computed at once by the loss
        self.positions = layers.make_positions(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, self.positions) for _ in range(config.n_layer))
        self.final_norm: nn.Module = nn.Identity()
        if config.final_norm:
            self.final_norm = layers.make_layer("norm_type", layers.NORMS, config)
        outputs = config.n_classes or config.vocab_size
        self.head = nn.Linear(config.d_model, outputs, bias=config.head_bias)
        self.init_weights()
        if config.tied_head:
            self.head.weight = self.embedding.weight

    def init_weights(self) -> None:
        """Initialize as GPT-2: normal weights, zero biases, residual outputs ÷ √(2 · n_layer)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                is_residual = name.endswith((".out", ".down"))
                scale = 1 / math.sqrt(2 * self.config.n_layer) if is_residual else 1.0
                nn.init.normal_(module.weight, std=self.config.init_std * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids_BxT: Tensor, target_BxT: Tensor | None = None) -> Tensor:
        """Return the logits of the token after each position, (B, T, V), for T ≤ context_length.

        With targets, (B, T), return their cross-entropy instead, in nats, summed over all tokens.
        """
        x_BxTxD = self.hidden_states(ids_BxT)
        if target_BxT is None:
            return self.head(x_BxTxD)
        return head_cross_entropy(self.head, x_BxTxD, target_BxT, self.max_logits)

    def hidden_states(self, ids_BxT: Tensor) -> Tensor:
        """Return the hidden states that the head reads, (B, T, D), for T ≤ context_length."""
        return self.forward_blocks(self.embed(ids_BxT))

    def hidden_cached(self, ids_BxT: Tensor, cache: KVCache) -> Tensor:
        """Return the hidden states of tokens that follow those in the cache, and add them to it."""
        x_BxTxD = self.forward_blocks(self.embed(ids_BxT, cache.length), cache)
        cache.length += ids_BxT.shape[1]
        return x_BxTxD

    def embed(self, ids_BxT: Tensor, start: int = 0) -> Tensor:
        """Embed token ids at positions `start`, `start` + 1, …, (B, T, D)."""
        x_BxTxD = self.embedding(ids_BxT)
        if self.config.scale_embeddings:
            x_BxTxD = x_BxTxD * math.sqrt(self.config.d_model)
        return self.dropout(self.positions.add(x_BxTxD, start))

    def forward_blocks(self, x_BxTxD: Tensor, cache: KVCache | None = None) -> Tensor:
        """Apply all blocks and the final norm to embedded tokens, (B, T, D)."""
        layer_caches = cache.layers() if cache is not None else [None] * len(self.blocks)
        for block, layer_cache in zip(self.blocks, layer_caches, strict=True):
            x_BxTxD = block(x_BxTxD, layer_cache)
        return self.final_norm(x_BxTxD)

    def make_cache(self, samples: int, max_tokens: int) -> KVCache:
        """Return an empty key-value cache; raises ValueError if attention sees the future."""
        config, weight = self.config, self.embedding.weight
        if config.let_attention_see_the_future:  # new tokens change earlier keys and values
            raise ValueError("a model whose attention sees the future cannot use a cache")
        head_dim = config.d_model // config.n_head
        shape = (config.n_layer, samples, config.n_head, max_tokens, head_dim)
        return KVCache(shape, weight.dtype, weight.device)


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters, counting a tied matrix once."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
