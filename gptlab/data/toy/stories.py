"""Tiny children's stories with exact probabilities, from story_rules.py and story_plots.py."""

from functools import cache

from gptlab.data.toy.grammar import Grammar
from gptlab.data.toy.story_rules import RULES


@cache
def story_grammar() -> Grammar:
    """Return the whole grammar, compiled and checked on first use."""
    return Grammar(RULES)
