"""The keys and values of tokens already read, so that writing a token reads that one alone.

In shapes, L layers, B samples, H heads, T tokens, W the most tokens that are kept, K = D / H.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


class LayerKVCache:
    """One layer's part: a view of the whole."""

    def __init__(self, keys_BxHxWxK: Tensor, values_BxHxWxK: Tensor, length: int):
        self.keys, self.values, self.length = keys_BxHxWxK, values_BxHxWxK, length

    def extend(self, k_BxHxTxK: Tensor, v_BxHxTxK: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps those of new tokens; returns those of all tokens, (B, H, length + T, K)."""
        end = self.length + k_BxHxTxK.shape[2]
        self.keys[:, :, self.length : end] = k_BxHxTxK
        self.values[:, :, self.length : end] = v_BxHxTxK
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Of all layers, in memory that is taken once.

    Args:
        shape: (L, B, H, W, K).
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        self.kept_2xLxBxHxWxK = torch.empty(2, *shape, dtype=dtype, device=device)
        self.length = 0  # tokens that are kept

    def layers(self) -> Iterator[LayerKVCache]:
        for keys, values in zip(*self.kept_2xLxBxHxWxK, strict=True):
            yield LayerKVCache(keys, values, self.length)

    def clear(self) -> None:
        self.length = 0

    def take(self, rows: list[int]) -> None:
        """Makes sample i what sample rows[i] was: dropped, doubled or in another order."""
        old = self.kept_2xLxBxHxWxK
        if rows == list(range(old.shape[2])):
            return
        new = old.new_empty(*old.shape[:2], len(rows), *old.shape[3:])
        new[..., : self.length, :] = old[:, :, rows, :, : self.length]
        self.kept_2xLxBxHxWxK = new
