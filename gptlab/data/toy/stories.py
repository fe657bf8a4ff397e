"""Tiny children's stories, as many as asked for, each with its exact probability.

The words are in toy_grammar.py and toy_plots.py, the engine that reads them in grammar.py.
"""

from functools import cache

from gptlab.data.toy import story_rules
from gptlab.data.toy.grammar import Grammar, Story


@cache
def grammar() -> Grammar:
    """The whole grammar, compiled and checked on first use."""
    return Grammar(story_rules.RULES)


def write(seed: int, index: int) -> Story:
    """The story numbered `index` of the endless run named by `seed`.

    A pure function, the same on every platform; no story depends on another.
    """
    return grammar().write(seed, index)


def log_probability(text: str) -> float:
    """The natural-log probability (nats) of a text; -inf where the grammar cannot write it."""
    return grammar().log_probability(text)


@cache
def entropy() -> float:
    """The exact entropy of a story, in nats: no model can have a lower expected loss."""
    return grammar().entropy()


@cache
def fingerprint() -> str:
    """A sha256 hex digest of the grammar; it changes when a word or a weight does."""
    return grammar().fingerprint()
