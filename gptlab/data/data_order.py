"""Decide the order of the training data, as a pure function of seed and index."""

import numpy as np

from gptlab.utils.hashing import splitmix64


def feistel_permute(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Map global indices to 0 … size - 1: each epoch is a different permutation.

    A Feistel network over the bits of the index, repeated until the result is below the size: a
    permutation of any size without a table. Black and Rogaway (2002), "Ciphers with Arbitrary
    Finite Domains".
    """
    epochs, values = np.divmod(indices.astype(np.uint64), np.uint64(size))
    half = np.uint64(max(1, -(-max(size - 1, 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = splitmix64(splitmix64(np.full_like(epochs, seed)) + epochs)

    def scramble(x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for turn in range(6):
            left, right = right, left ^ (splitmix64(right ^ keys ^ np.uint64(turn << 58)) & mask)
        return (left << half) | right

    values = scramble(values, keys)
    while (outside := values >= size).any():
        values[outside] = scramble(values[outside], keys[outside])
    return values.astype(np.int64)


def random_positions(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Map global indices to independent random positions from 0 to size - 1, with repetitions."""
    seeds = splitmix64(np.full(len(indices), seed, dtype=np.uint64))
    hashes = splitmix64(seeds + indices.astype(np.uint64))
    return (hashes / 2.0**64 * size).astype(np.int64)
