"""What can be said of written texts without a judge: how varied, how long, how well-formed."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"\w[\w'’-]*")


@dataclass
class TextQuality:
    """Over several texts; shares are from 0 to 1."""

    texts: int
    words: float  # a text, on average
    ended: float  # share that came to their end by themselves
    distinct_1: float  # share of words that are different; Li and others (2015), arXiv:1510.03055
    distinct_2: float  # … of pairs of words
    repeated_4: float  # share of runs of four words that stood in the same text before
    unknown_words: float  # share of words that the training text does not have
    grammatical: float | None = None  # share that the corpus's grammar can write
    nats: float | None = None  # of those, what one costs under the grammar, on average


def measure_text_quality(
    texts: Sequence[str],
    ended: Sequence[bool],
    known: set[str],
    log_probability: Callable[[str], float] | None,
) -> TextQuality:
    """The figures of these texts; `log_probability` is the grammar's, where there is one."""
    words = [WORD.findall(text) for text in texts]
    every = [word for each in words for word in each]
    grams = [ngrams(each, 4) for each in words]
    logs = [log_probability(text) for text in texts] if log_probability else []
    finite = [-value for value in logs if np.isfinite(value)]
    return TextQuality(
        texts=len(texts),
        words=mean([len(each) for each in words]),
        ended=mean(ended),
        distinct_1=distinct_share([ngrams(each, 1) for each in words]),
        distinct_2=distinct_share([ngrams(each, 2) for each in words]),
        repeated_4=1 - mean([len(set(each)) for each in grams]) / max(1e-9, mean(map(len, grams))),
        unknown_words=mean([word.casefold() not in known for word in every]),
        grammatical=len(finite) / max(1, len(logs)) if log_probability else None,
        nats=mean(finite) if finite else None,
    )


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def distinct_share(grams: list[list[tuple[str, ...]]]) -> float:
    """Over all texts together: a model that writes one story again and again is told by it."""
    every = [gram for each in grams for gram in each]
    return len(set(every)) / max(1, len(every))


def mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / max(1, len(listed))


def training_words(texts: Iterable[str]) -> set[str]:
    """The words of a training text, whatever their case."""
    known: set[str] = set()
    for text in texts:
        known.update(word.casefold() for word in WORD.findall(text))
    return known
