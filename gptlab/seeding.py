"""Seeds derived from numbers, not drawn from a generator with a history."""

from hashlib import blake2b


def derive(*numbers: int) -> int:
    """A 63-bit seed that is a function of these numbers alone, the same on every machine."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1
