"""Measure how much generated text is copied verbatim from the training text.

All n-grams of the texts are searched at once, in one pass over the token file. An n-gram is
recognized by its hash, and an n-gram is looked up only where its first n - 1 tokens were found.
Memory use is one chunk, however long the file is.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from gptlab.evaluation.eval_context import EvalContext, Results, named_results

NGRAMS = (5, 10, 20)  # tokens
CHUNK = 1 << 21  # positions searched together
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with well-mixed bits; hashes are modulo 2 ** 64


def evaluate_memorisation(context: EvalContext) -> Results:
    """Search the training text for spans of generated text, and of as much held-out text."""
    prompt, count = context.memorisation_prompt, context.num_samples
    if prompt is None:
        samples, held_out = context.continue_documents()
    else:
        samples = context.generate(prompt, count, context.config.seed)
        documents = context.corpus.documents("valid", count)
        held_out = [d[len(prompt) :][: context.config.max_new_tokens] for d in documents]
    generated = [sample.new_tokens for sample in samples]
    token_ids = {"memorisation": generated, "memorisation_held_out": held_out}
    results: Results = {"memorisation/n": len(samples)}
    for name, each in token_ids.items():
        results |= named_results(name, measure_memorisation(context.corpus.tokens("train"), each))
    return results


def check_memorisation(context: EvalContext) -> None:
    """Raise UserError if there are too few held-out documents to continue."""
    if context.memorisation_prompt is None:
        context.documents_to_continue()


def extend_hashes(hashes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Extend the hash of each n-gram by its next token."""
    return hashes * FACTOR + tokens.astype(np.uint64) + np.uint64(1)


def ngram_hashes(token_ids: Sequence[Sequence[int]], length: int) -> list[np.ndarray]:
    """Hash all n-grams of this length in each text, in order."""
    hashes_of_texts = []
    for ids in token_ids:
        tokens = np.asarray(ids, dtype=np.int64)
        count = max(0, len(tokens) - length + 1)
        hashes = np.zeros(count, dtype=np.uint64)
        for offset in range(length):
            hashes = extend_hashes(hashes, tokens[offset : offset + count])
        hashes_of_texts.append(hashes)
    return hashes_of_texts


def find_ngrams(stream: np.ndarray, token_ids: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """For each length from 1 on and each text, look up whether its n-grams occur in the stream."""
    longest = max(map(len, token_ids), default=0)
    searched = [ngram_hashes(token_ids, length) for length in range(1, longest + 1)]
    known = [np.unique(np.concatenate(hashes)) for hashes in searched]
    occurs = [np.zeros(len(hashes), dtype=bool) for hashes in known]
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
            occurs[length][where[hit]] = True
            places, hashes = places[hit], hashes[hit]
            if not len(places):
                break
    return [
        [occurs[length][np.searchsorted(known[length], hashes)] for hashes in searched[length]]
        for length in range(longest)
    ]


def measure_memorisation(stream: np.ndarray, token_ids: Sequence[Sequence[int]]) -> Results:
    """Search a token stream for the spans of several texts.

    Returns the longest verbatim span of all texts and its mean over texts, in tokens, and the share
    of verbatim n-grams.
    """
    occurs = find_ngrams(stream, token_ids)
    spans = [
        max((n for n, by_text in enumerate(occurs, 1) if by_text[number].any()), default=0)
        for number in range(len(token_ids))
    ]
    metrics = {"longest": max(spans, default=0), "mean_longest": sum(spans) / max(1, len(spans))}
    for n in NGRAMS:
        every = np.concatenate(occurs[n - 1]) if n <= len(occurs) else np.zeros(0)
        metrics[f"{n}_grams"] = float(every.mean()) if len(every) else 0.0
    return metrics
