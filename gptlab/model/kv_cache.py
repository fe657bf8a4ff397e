"""Cache keys and values of earlier tokens, so that generation computes only the new token.

In shapes: L layers, B samples, H heads, T tokens, W the cache's capacity in tokens, K = D / H.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


class LayerKVCache:
    """A view of one layer's keys and values."""

    def __init__(self, keys_BxHxWxK: Tensor, values_BxHxWxK: Tensor, length: int):
        self.keys, self.values, self.length = keys_BxHxWxK, values_BxHxWxK, length

    def extend(self, k_BxHxTxK: Tensor, v_BxHxTxK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all of them, (B, H, length + T, K)."""
        end = self.length + k_BxHxTxK.shape[2]
        self.keys[:, :, self.length : end] = k_BxHxTxK
        self.values[:, :, self.length : end] = v_BxHxTxK
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Keys and values of all layers, in memory allocated once; `shape` is (L, B, H, W, K)."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        self.kv_2xLxBxHxWxK = torch.empty(2, *shape, dtype=dtype, device=device)
        self.length = 0  # tokens in the cache

    def layers(self) -> Iterator[LayerKVCache]:
        for keys, values in zip(*self.kv_2xLxBxHxWxK, strict=True):
            yield LayerKVCache(keys, values, self.length)

    def select(self, rows: list[int]) -> None:
        """Replace the samples by samples rows[0], rows[1], …; rows may be dropped or repeated."""
        old = self.kv_2xLxBxHxWxK
        if rows == list(range(old.shape[2])):
            return
        new = old.new_empty(*old.shape[:2], len(rows), *old.shape[3:])
        new[..., : self.length, :] = old[:, :, rows, :, : self.length]
        self.kv_2xLxBxHxWxK = new
