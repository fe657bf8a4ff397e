"""A grammar that generates stories with known probabilities.

A grammar is plain data: named rules, each a list of alternatives (see story_rules.py). The
generated stories, the probability of any text, the list of all stories of a small grammar and the
exact entropy all use the same rules, so they agree.

Every text has at most one derivation (grammar_parser.py checks it), so the probability of a story
is the probability of its derivation.
"""

import hashlib
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from gptlab.data.toy import grammar_parser as parser
from gptlab.data.toy.grammar_parser import PLOT, START, Alternative, BackReference, Choice

FORMAT = 1  # raise when the same rules generate other stories, so that corpora are rebuilt


@dataclass(frozen=True, slots=True)
class Story:
    """One story: its text, the name of its plot, and its natural-log probability (nats)."""

    text: str
    plot: str
    log_probability: float


class SearchState(NamedTuple):
    """A partial derivation: the text so far, and the pieces that follow."""

    text: str
    rest: tuple | None  # pieces, index of the next one, and the rest of the enclosing rule
    bound: dict[str, Alternative]
    plot: str
    log_probability: float


class Grammar:
    """A grammar compiled from rules in the notation of story_rules.py.

    Raises GrammarError if the rules are malformed or ambiguous.
    """

    def __init__(self, source: parser.RuleTexts) -> None:
        self.source = {name: tuple(alternatives) for name, alternatives in source.items()}
        self.rules = parser.compile_rules(self.source)
        self._start = Choice(self.rules[START])

    def entropy(self) -> float:
        """Return the entropy of a story in nats: the lowest possible mean loss per story."""

        @cache
        def rule_entropy(name: str) -> float:
            rule = self.rules[name]
            pairs = zip(rule.alternatives, rule.logs, strict=True)
            return math.fsum(math.exp(log) * (pieces_entropy(a) - log) for a, log in pairs)

        def pieces_entropy(alternative: Alternative) -> float:
            choices = (piece for piece in alternative.pieces if isinstance(piece, Choice))
            return math.fsum(map(choice_entropy, choices))

        def choice_entropy(choice: Choice) -> float:
            rule = choice.rule
            return math.log(len(rule.index) - 1) if choice.exclude else rule_entropy(rule.name)

        return rule_entropy(START)

    def generate(self, seed: int, index: int) -> Story:
        """Generate story `index` of the endless series `seed`; a pure function."""
        digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
        uniform = random.Random(int.from_bytes(digest, "big")).random
        bound: dict[str, Alternative] = {}
        out: list[str] = []
        plot = ""

        def emit(choice: Choice) -> float:
            nonlocal plot
            alternative, total = choose(choice, bound, uniform())
            if choice.bind is not None:
                bound[choice.bind] = alternative
            if choice.rule.name == PLOT:
                plot = plot_name(alternative)
            for piece in alternative.pieces:
                if isinstance(piece, str):
                    out.append(piece)
                elif isinstance(piece, BackReference):
                    out.append(bound[piece.name].forms[piece.form])
                else:
                    total += emit(piece)
            return total

        total = emit(self._start)
        return Story("".join(out), plot, total)

    def derivations(self, text: str | None = None) -> Iterator[Story]:
        """Yield every derivation of `text`; without a text, every story of the grammar.

        The search stops only where the text differs, so it would find a second derivation. Only
        a small grammar has few enough stories to list them all.
        """
        states = [SearchState("", ((self._start,), 0, None), {}, "", 0.0)]
        while states:
            done, rest, bound, plot, total = states.pop()
            while rest is not None:
                pieces, i, enclosing = rest
                if i == len(pieces):
                    rest = enclosing
                    continue
                piece = pieces[i]
                rest = (pieces, i + 1, enclosing)
                if isinstance(piece, Choice):
                    state = SearchState(done, rest, bound, plot, total)
                    states += expand_choice(piece, state, text)
                    break
                word = piece if isinstance(piece, str) else bound[piece.name].forms[piece.form]
                if text is not None and not text.startswith(word, len(done)):
                    break
                done += word
            else:
                if text is None or len(done) == len(text):
                    yield Story(done, plot, total)

    def log_probability(self, text: str) -> float:
        """Return the log probability (nats) of a text; -inf if it is not a story."""
        return next((story.log_probability for story in self.derivations(text)), -math.inf)

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of everything that decides the stories."""
        content = json.dumps([FORMAT, parser.PRONOUNS, list(self.source.items())])
        return hashlib.sha256(content.encode()).hexdigest()


def plot_name(alternative: Alternative) -> str:
    """Return the name of the plot's rule, the only slot of an alternative of PLOT."""
    (slot,) = alternative.pieces
    assert isinstance(slot, Choice)
    return slot.rule.name


def choose(
    choice: Choice, bound: Mapping[str, Alternative], uniform: float
) -> tuple[Alternative, float]:
    """Return the alternative that a number in [0, 1) selects, and its log probability (nats)."""
    rule = choice.rule
    if choice.exclude is not None:
        count = len(rule.alternatives) - 1
        i = int(uniform * count)
        i += i >= rule.index[bound[choice.exclude].text]
        return rule.alternatives[i], -math.log(count)
    if rule.cumulative is None:
        i = int(uniform * len(rule.alternatives))
    else:
        i = bisect_right(rule.cumulative, uniform)
    return rule.alternatives[i], rule.logs[i]


def expand_choice(choice: Choice, state: SearchState, text: str | None) -> Iterator[SearchState]:
    """Yield the search states after a choice that match the text."""
    done, rest, bound, plot, total = state
    rule = choice.rule
    excluded = bound[choice.exclude].text if choice.exclude else None
    for alternative, log in zip(rule.alternatives, rule.logs, strict=True):
        first = alternative.pieces[0]
        if text is not None and isinstance(first, str) and not text.startswith(first, len(done)):
            continue
        if excluded is not None:
            if alternative.text == excluded:
                continue
            log = -math.log(len(rule.alternatives) - 1)
        known = bound | {choice.bind: alternative} if choice.bind else bound
        name = plot_name(alternative) if rule.name == PLOT else plot
        yield SearchState(done, (alternative.pieces, 0, rest), known, name, total + log)
