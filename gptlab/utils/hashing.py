"""Derive seeds and random numbers from numbers alone, without a generator's history."""

from hashlib import blake2b

import numpy as np


def derive_seed(*numbers: int) -> int:
    """Return a 63-bit seed that depends on these numbers only, the same on every machine."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Hash each 64-bit number with the finalizer of SplitMix64 (Steele et al., 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
