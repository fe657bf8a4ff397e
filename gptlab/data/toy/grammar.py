"""A seeded grammar of texts whose every probability is known.

A grammar (`toy_grammar` is one) is plain data: named rules, each a list of alternatives. Four
readings of that one data live here and so cannot disagree: drawing a story, finding the
derivation of a given text, listing all stories of a cut-down grammar, and the exact entropy.

The grammar is unambiguous by construction (`grammar_rules` checks it), so a story's probability
is that of its derivation.
"""

import hashlib
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from gptlab.data.toy.grammar_rules import (
    PLOT,
    PRONOUNS,
    START,
    Alternative,
    Choice,
    Copy,
    GrammarError,
    Source,
    compile_rules,
)

# Raised when the same rules would draw other stories, so that old cache keys lapse.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Story:
    """One story: its text, the name of its plot, and its natural-log probability (nats)."""

    text: str
    plot: str
    log_probability: float


class Grammar:
    """A grammar compiled from rules given as text (the notation is told in `toy_grammar`).

    Raises GrammarError where the text is malformed or ambiguous.
    """

    def __init__(self, source: Source) -> None:
        self.source = {name: tuple(alternatives) for name, alternatives in source.items()}
        self.rules = compile_rules(self.source)
        self._start = Choice(self.rules[START])

    def entropy(self) -> float:
        """The entropy of a story, in nats: the best possible mean loss on one."""

        @cache
        def of_rule(name: str) -> float:
            rule = self.rules[name]
            pairs = zip(rule.alternatives, rule.logs, strict=True)
            return math.fsum(math.exp(log) * (of_pieces(a) - log) for a, log in pairs)

        def of_pieces(alternative: Alternative) -> float:
            choices = (piece for piece in alternative.pieces if isinstance(piece, Choice))
            return math.fsum(
                math.log(len(c.rule.alternatives) - 1) if c.exclude else of_rule(c.rule.name)
                for c in choices
            )

        return of_rule(START)

    def write(self, seed: int, index: int) -> Story:
        """The story numbered `index` of the endless run named by `seed`; a pure function."""
        digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
        draw = random.Random(int.from_bytes(digest, "big")).random
        bound: dict[str, Alternative] = {}
        out: list[str] = []
        plot = ""

        def emit(choice: Choice) -> float:
            nonlocal plot
            alternative, total = _pick(choice, bound, draw())
            if choice.bind is not None:
                bound[choice.bind] = alternative
            if choice.rule.name == PLOT:
                plot = alternative.pieces[0].rule.name
            for piece in alternative.pieces:
                if type(piece) is str:
                    out.append(piece)
                elif type(piece) is Copy:
                    out.append(bound[piece.name].forms[piece.form])
                else:
                    total += emit(piece)
            return total

        total = emit(self._start)
        return Story("".join(out), plot, total)

    def derivations(self, text: str | None = None) -> Iterator[Story]:
        """Every way to derive `text`, or, without one, every story of the grammar.

        The search gives up only where the text already differs, so that it would find a second
        derivation. To list all stories, cut the grammar down with `restrict` first.
        """
        agenda: list[tuple] = [("", ((self._start,), 0, None), {}, "", 0.0)]
        while agenda:
            done, rest, bound, plot, total = agenda.pop()
            while rest is not None:
                pieces, i, after = rest
                if i == len(pieces):
                    rest = after
                    continue
                piece = pieces[i]
                rest = (pieces, i + 1, after)
                if isinstance(piece, Choice):
                    agenda += _branches(piece, (done, rest, bound, plot, total), text)
                    break
                word = piece if isinstance(piece, str) else bound[piece.name].forms[piece.form]
                if text is not None and not text.startswith(word, len(done)):
                    break
                done += word
            else:
                if text is None or len(done) == len(text):
                    yield Story(done, plot, total)

    def log_probability(self, text: str) -> float:
        """The natural-log probability (nats) of a text, -inf where it is not a story."""
        return next((story.log_probability for story in self.derivations(text)), -math.inf)

    @property
    def plots(self) -> dict[str, float]:
        """The probability of each plot, by name."""
        rule = self.rules[PLOT]
        pairs = zip(rule.alternatives, rule.logs, strict=True)
        return {a.pieces[0].rule.name: math.exp(log) for a, log in pairs}

    def fingerprint(self) -> str:
        """A sha256 hex digest of all that the stories depend on, for cache keys."""
        content = json.dumps([FORMAT, PRONOUNS, list(self.source.items())])
        return hashlib.sha256(content.encode()).hexdigest()

    def restrict(
        self, keep: int, plots: Sequence[str] = (), widths: Mapping[str, int] | None = None
    ) -> "Grammar":
        """A smaller grammar: the first `keep` alternatives of each rule and the named plots.

        `widths` gives another number for some rules; no `plots` means all. Rules from which
        an earlier choice is left out keep two at least, and named plots weigh the same.
        Raises GrammarError for a plot that is not there.
        """
        unknown = set(plots) - self.plots.keys()
        if unknown:
            raise GrammarError(f"no plots named {sorted(unknown)}")
        slots = (p for r in self.rules.values() for a in r.alternatives for p in a.pieces)
        paired = {p.rule.name for p in slots if isinstance(p, Choice) and p.exclude}
        source = {}
        for name, alternatives in self.source.items():
            width = max((widths or {}).get(name, keep), 2 if name in paired else 1)
            source[name] = alternatives[:width]
        source[PLOT] = [f"{{{name}}}" for name in plots] or self.source[PLOT]
        return Grammar(source)


def _pick(
    choice: Choice, bound: Mapping[str, Alternative], draw: float
) -> tuple[Alternative, float]:
    """The alternative that a draw from [0, 1) falls on, and its log probability (nats)."""
    rule = choice.rule
    if choice.exclude is not None:
        count = len(rule.alternatives) - 1
        i = int(draw * count)
        i += i >= rule.index[bound[choice.exclude].text]
        return rule.alternatives[i], -math.log(count)
    if rule.cumulative is None:
        i = int(draw * len(rule.alternatives))
    else:
        i = bisect_right(rule.cumulative, draw)
    return rule.alternatives[i], rule.logs[i]


def _branches(choice: Choice, state: tuple, text: str | None) -> Iterator[tuple]:
    """The states that follow a choice, less those that the text rules out at once."""
    done, rest, bound, plot, total = state
    rule = choice.rule
    left_out = bound[choice.exclude].text if choice.exclude else None
    for alternative, log in zip(rule.alternatives, rule.logs, strict=True):
        first = alternative.pieces[0]
        if text is not None and isinstance(first, str) and not text.startswith(first, len(done)):
            continue
        if left_out is not None:
            if alternative.text == left_out:
                continue
            log = -math.log(len(rule.alternatives) - 1)
        known = bound | {choice.bind: alternative} if choice.bind else bound
        name = first.rule.name if rule.name == PLOT else plot
        yield done, (alternative.pieces, 0, rest), known, name, total + log
