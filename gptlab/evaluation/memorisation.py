"""How much of what a model writes stands word for word in its training text?

All runs of tokens of the texts are looked for at once, in one pass over the token file: a run of n
tokens is known by its hash, and only where one of n - 1 tokens was found can one of n begin. Memory
is that of a chunk, however long the file is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

NGRAMS = (5, 10, 20)  # tokens
CHUNK = 1 << 21  # places looked at together
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed; hashes are modulo 2 ** 64


@dataclass
class MemorisationResult:
    """Over several texts: longest verbatim spans in tokens, and shares of verbatim n-grams."""

    longest: int
    mean_longest: float
    grams: dict[int, float]  # by n


def extend_hashes(hashes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Hashes of runs that are longer by these tokens."""
    return hashes * FACTOR + tokens.astype(np.uint64) + np.uint64(1)


def ngram_hashes(texts: Sequence[Sequence[int]], length: int) -> list[np.ndarray]:
    """For each text the hashes of all its runs of this length, in order."""
    made = []
    for text in texts:
        tokens = np.asarray(text, dtype=np.int64)
        count = max(0, len(tokens) - length + 1)
        hashes = np.zeros(count, dtype=np.uint64)
        for offset in range(length):
            hashes = extend_hashes(hashes, tokens[offset : offset + count])
        made.append(hashes)
    return made


def find_runs(stream: np.ndarray, texts: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """For each length from 1 on, and each text, whether each of its runs stands in the stream."""
    longest = max(map(len, texts), default=0)
    wanted = [ngram_hashes(texts, length) for length in range(1, longest + 1)]
    known = [np.unique(np.concatenate(hashes)) for hashes in wanted]
    found = [np.zeros(len(hashes), dtype=bool) for hashes in known]
    firsts = range(0, len(stream), CHUNK)
    for first in tqdm(firsts, desc="memorisation", disable=None, leave=False):
        block = np.asarray(stream[first : first + CHUNK + longest])
        places = np.arange(min(CHUNK, len(stream) - first))
        hashes = np.zeros(len(places), dtype=np.uint64)
        for length in range(longest):
            inside = places + length < len(block)
            places, hashes = places[inside], hashes[inside]
            hashes = extend_hashes(hashes, block[places + length])
            where = np.searchsorted(known[length], hashes).clip(max=len(known[length]) - 1)
            hit = known[length][where] == hashes
            found[length][where[hit]] = True
            places, hashes = places[hit], hashes[hit]
            if not len(places):
                break
    return [
        [found[length][np.searchsorted(known[length], hashes)] for hashes in wanted[length]]
        for length in range(longest)
    ]


def measure_memorisation(stream: np.ndarray, texts: Sequence[Sequence[int]]) -> MemorisationResult:
    """What of the texts stands in the stream of tokens."""
    runs = find_runs(stream, texts)
    spans = [
        max((length + 1 for length, of in enumerate(runs) if of[number].any()), default=0)
        for number in range(len(texts))
    ]
    shares = {}
    for n in NGRAMS:
        every = np.concatenate(runs[n - 1]) if n <= len(runs) else np.zeros(0)
        shares[n] = float(every.mean()) if len(every) else 0.0
    return MemorisationResult(max(spans, default=0), sum(spans) / max(1, len(spans)), shares)
