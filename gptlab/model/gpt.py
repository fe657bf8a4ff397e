"""The decoder, whole: embedding → blocks → norm → head. Its parts are in parts.py.

In shapes, B is the batch, T the tokens in the window, D d_model, V the vocabulary (of a model
that classifies, the classes).
"""

import math

from torch import Tensor, nn

from gptlab.config.schema import ModelConfig
from gptlab.model import layers
from gptlab.model.kv_cache import KVCache, LayerKVCache
from gptlab.model.loss import MAX_LOGITS, head_cross_entropy
from gptlab.utils.errors import resolve_choice


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual connection, a norm and dropout."""

    def __init__(self, config: ModelConfig, positions: layers.Positions):
        super().__init__()
        norm = resolve_choice("model.norm_type", config.norm_type, layers.NORMS)
        feed_forward = resolve_choice(
            "model.feed_forward", config.feed_forward, layers.FEED_FORWARDS
        )
        self.wire = resolve_choice("model.norm", config.norm, layers.RESIDUALS)
        self.attention_norm = norm(config)
        self.attention = layers.CausalSelfAttention(config, positions)
        self.feed_forward_norm = norm(config)
        self.feed_forward = feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BxTxD: Tensor, cache: LayerKVCache | None = None) -> Tensor:
        attend = self.attention
        x = self.wire(x_BxTxD, self.attention_norm, lambda y: self.dropout(attend(y, cache)))
        return self.wire(x, self.feed_forward_norm, lambda y: self.dropout(self.feed_forward(y)))


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        config: `vocab_size` must be set here; raises UserError for a part that no table has.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.vocab_size is not None, "the vocabulary's size comes from the tokenizer"
        self.config = config
        self.logits_at_once = MAX_LOGITS
        norm = resolve_choice("model.norm_type", config.norm_type, layers.NORMS)
        self.positions = resolve_choice("model.position", config.position, layers.POSITIONS)(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, self.positions) for _ in range(config.n_layer))
        self.final_norm = norm(config) if config.final_norm else nn.Identity()
        outputs = config.n_classes or config.vocab_size
        self.head = nn.Linear(config.d_model, outputs, bias=config.head_bias)
        self.initialise()
        if config.tied_head:
            self.head.weight = self.embedding.weight

    def initialise(self) -> None:
        """GPT-2's: normal weights, zero biases, residual outputs scaled down by √(2 · n_layer)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith((".out", ".down"))
                scale = 1 / math.sqrt(2 * self.config.n_layer) if residual else 1.0
                nn.init.normal_(module.weight, std=self.config.init_std * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed(self, ids_BxT: Tensor, first: int = 0) -> Tensor:
        """Token ids, at positions from `first` on, to what the first block reads, (B, T, D)."""
        x_BxTxD = self.embedding(ids_BxT)
        if self.config.scale_embeddings:
            x_BxTxD = x_BxTxD * math.sqrt(self.config.d_model)
        return self.dropout(self.positions.add(x_BxTxD, first))

    def hidden(self, ids_BxT: Tensor) -> Tensor:
        """What the head reads, (B, T, D). T ≤ context_length."""
        return self.read(self.embed(ids_BxT))

    def hidden_after(self, ids_BxT: Tensor, cache: KVCache) -> Tensor:
        """The same for tokens that follow those in the cache, which takes them in."""
        x_BxTxD = self.read(self.embed(ids_BxT, cache.length), cache)
        cache.length += ids_BxT.shape[1]
        return x_BxTxD

    def make_cache(self, samples: int, tokens: int) -> KVCache:
        """An empty cache for so many samples of at most so many tokens.

        Raises ValueError for a model whose tokens see the future: what it makes of a token is
        another with each that follows, and cannot be kept.
        """
        config, weight = self.config, self.embedding.weight
        if config.let_attention_see_the_future:
            raise ValueError("a model that sees the future has nothing to keep")
        shape = (config.n_layer, samples, config.n_head, tokens, config.d_model // config.n_head)
        return KVCache(shape, weight.dtype, weight.device)

    def read(self, x_BxTxD: Tensor, cache: KVCache | None = None) -> Tensor:
        """All blocks and the final norm: embedded tokens to what the head reads, (B, T, D)."""
        layers = cache.layers() if cache is not None else [None] * len(self.blocks)
        for block, layer in zip(self.blocks, layers, strict=True):
            x_BxTxD = block(x_BxTxD, layer)
        return self.final_norm(x_BxTxD)

    def forward(self, ids_BxT: Tensor, target_BxT: Tensor | None = None) -> Tensor:
        """Logits for the token after each: (B, T) ids → (B, T, V). T ≤ context_length.

        With the tokens that do come after, (B, T), instead the nats they cost in all.
        """
        x_BxTxD = self.hidden(ids_BxT)
        if target_BxT is None:
            return self.head(x_BxTxD)
        return head_cross_entropy(self.head, x_BxTxD, target_BxT, self.logits_at_once)


def count_parameters(net: nn.Module) -> int:
    """Trainable numbers, a tied matrix once."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
