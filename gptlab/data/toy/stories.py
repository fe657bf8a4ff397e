"""Generate tiny children's stories, each with its exact probability.

The words are in story_rules.py and story_plots.py; grammar.py generates from them.
"""

from functools import cache

from gptlab.data.toy.grammar import Grammar, Story
from gptlab.data.toy.story_rules import RULES


@cache
def grammar() -> Grammar:
    """The whole grammar, compiled and checked on first use."""
    return Grammar(RULES)


def generate_story(seed: int, index: int) -> Story:
    """Generate story `index` of the endless series `seed`, the same on every platform."""
    return grammar().generate(seed, index)


def log_probability(text: str) -> float:
    """The natural-log probability (nats) of a text; -inf if the grammar cannot generate it."""
    return grammar().log_probability(text)


@cache
def entropy() -> float:
    """The exact entropy of a story in nats: no model can have a lower expected loss."""
    return grammar().entropy()


@cache
def fingerprint() -> str:
    """A SHA-256 hex digest of the grammar, which changes with every word and weight."""
    return grammar().fingerprint()
