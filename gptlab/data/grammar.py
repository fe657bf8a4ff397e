"""A seeded grammar of texts whose every probability is known.

A grammar (`toy_grammar` is one) is plain data: named rules, each a list of alternatives. Four
readings of that one data live here and so cannot disagree: drawing a story, finding the
derivation of a given text, listing all stories of a cut-down grammar, and the exact entropy.

The grammar is unambiguous by construction. At every choice, no alternative can emit a text
that is a prefix of what another can emit (`Grammar.check`), and copies of earlier choices are
fixed by what was already read. By induction over the rules, a text has at most one derivation
and no story is a proper prefix of another, so a story's probability is that of its derivation.
"""

import hashlib
import json
import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

START = "story"
PLOT = "plot"
# Raised when the same rules would draw other stories, so that old cache keys lapse.
FORMAT = 1
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}
# How many leading characters to compare when telling alternatives apart, nearest first.
LOOKAHEAD = (4, 12, 24, 40)

_SLOT = re.compile(r"\{(?:(\w+):)?(\w+)(?:\.(\w+))?(?:-(\w+))?\}")
_ALTERNATIVE = re.compile(r"(?:(\d+)\* )?(.*?)(?:~(\w+))?")


class GrammarError(ValueError):
    """The grammar's data breaks one of the rules that make its probabilities exact."""


@dataclass(frozen=True, slots=True)
class Story:
    """One story: its text, the name of its plot, and its natural-log probability (nats)."""

    text: str
    plot: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A slot that repeats, in some form, what an earlier slot chose."""

    name: str
    form: str


@dataclass(eq=False, slots=True)
class Alternative:
    """One way to write a rule; `forms` are the inflections of a plain filler, else empty."""

    text: str
    weight: int
    pieces: tuple["str | Copy | Choice", ...]
    forms: dict[str, str]


@dataclass(eq=False, slots=True)
class Rule:
    """A named list of alternatives; `cumulative` is None where all weigh the same."""

    name: str
    alternatives: list[Alternative] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    cumulative: list[float] | None = None
    index: dict[str, int] = field(default_factory=dict)

    def fill(self, alternatives: list[Alternative]) -> None:
        """Take the alternatives and work out their probabilities."""
        self.alternatives = alternatives
        self.index = {a.text: i for i, a in enumerate(alternatives)}
        weights = [a.weight for a in alternatives]
        self.logs = [math.log(weight / sum(weights)) for weight in weights]
        if len(set(weights)) > 1:
            self.cumulative = [total / sum(weights) for total in accumulate(weights[:-1])]


@dataclass(frozen=True, slots=True)
class Choice:
    """A slot that chooses from a rule, all but what the slot `exclude` chose."""

    rule: Rule
    bind: str | None = None
    exclude: str | None = None


class Grammar:
    """A grammar compiled from rules given as text (the notation is told in `toy_grammar`).

    Raises GrammarError where the text is malformed or `check` finds a fault.
    """

    def __init__(self, source: Mapping[str, Sequence[str]]) -> None:
        self.source = {name: tuple(alternatives) for name, alternatives in source.items()}
        self.rules = {name: Rule(name) for name in self.source}
        for name, rule in self.rules.items():
            rule.fill([self._compile(text) for text in self._flat(name)])
        self._start = Choice(self.rules[START])
        self._bindings: dict[str, dict[str, Alternative]] = {}
        self.check()

    def _flat(self, name: str) -> Iterator[str]:
        """A rule's alternatives, with `+other` replaced by all those of the other rule."""
        for text in self.source[name]:
            if not text.startswith("+"):
                yield text
            elif text[1:] in self.source:
                yield from self._flat(text[1:])
            else:
                raise GrammarError(f"no rule named {text[1:]!r}")

    def _compile(self, source: str) -> Alternative:
        weight, text, tag = _ALTERNATIVE.fullmatch(source).groups()
        pieces: list[str | Copy | Choice] = []
        end = 0
        for slot in _SLOT.finditer(text):
            bind, name, form, exclude = slot.groups()
            pieces.append(text[end : slot.start()])
            if name in self.rules:
                pieces.append(Choice(self.rules[name], bind, exclude))
            else:
                pieces.append(Copy(name, form or ""))
            end = slot.end()
        pieces = [piece for piece in (*pieces, text[end:]) if piece != ""]
        odd = any(set(piece) & set("{}~|") for piece in pieces if isinstance(piece, str))
        if not pieces or odd or tag not in (None, *PRONOUNS):
            raise GrammarError(f"malformed alternative: {source!r}")
        forms = {"": text} if pieces == [text] else {}
        if tag:
            forms |= dict(zip(("he", "him", "his"), PRONOUNS[tag], strict=True))
            forms |= {form.capitalize(): forms[form].capitalize() for form in ("he", "his")}
        return Alternative(text, int(weight or 1), tuple(pieces), forms)

    def check(self) -> None:
        """Raise GrammarError unless stories are unambiguous and their entropy analytic."""
        for rule in self.rules.values():
            for piece in (p for a in rule.alternatives for p in a.pieces):
                if isinstance(piece, Choice) and piece.bind:
                    fillers = {a.text: a for a in piece.rule.alternatives}
                    self._bindings.setdefault(piece.bind, {}).update(fillers)
        for alternative in self.rules[PLOT].alternatives:
            if len(alternative.pieces) > 1 or not isinstance(alternative.pieces[0], Choice):
                raise GrammarError(f"a plot is one slot, not {alternative.text!r}")
        self._check_order(self._start, frozenset())
        leads: dict[tuple[str, int], set[str]] = {}
        for rule in self.rules.values():
            self._check_told_apart(rule, leads)

    def _check_order(self, choice: Choice, known: frozenset[str]) -> frozenset[str]:
        """Check that slots are bound once, before use; return those surely bound after."""
        rule, after = choice.rule, []
        if choice.exclude is not None:
            # Leaving one of n equals always leaves n - 1 equals: that keeps entropy exact.
            if choice.exclude not in known or rule.cumulative or len(rule.index) < 2:
                raise GrammarError(f"{rule.name!r} cannot leave out {choice.exclude!r}")
            if not self._bindings[choice.exclude].keys() <= rule.index.keys():
                raise GrammarError(f"{choice.exclude!r} may not be among {rule.name!r}")
        if choice.bind or choice.exclude:
            if choice.bind in known or not all(a.forms for a in rule.alternatives):
                raise GrammarError(f"{rule.name!r} cannot be bound to {choice.bind!r}")
            return known | {choice.bind} if choice.bind else known
        for alternative in rule.alternatives:
            bound = known
            for piece in alternative.pieces:
                if isinstance(piece, Choice):
                    bound = self._check_order(piece, bound)
                elif isinstance(piece, Copy):
                    fillers = self._bindings[piece.name].values() if piece.name in bound else ()
                    if not fillers or any(piece.form not in a.forms for a in fillers):
                        raise GrammarError(f"{piece} is not known in {alternative.text!r}")
            after.append(bound)
        return frozenset.intersection(*after)

    def _check_told_apart(self, rule: Rule, leads: dict[tuple[str, int], set[str]]) -> None:
        """Check that no alternative can begin with all that another may emit."""
        clash = ""
        for limit in LOOKAHEAD:
            heads = sorted(
                (head, i)
                for i, alternative in enumerate(rule.alternatives)
                for head in self._heads(alternative.pieces, limit, leads)
            )
            clash, (last, owner) = "", heads[0]
            for head, i in heads:
                if not head.startswith(last):
                    last, owner = head, i
                elif i != owner:
                    clash = head
            if not clash:
                return
        raise GrammarError(f"alternatives of {rule.name!r} look alike: {clash!r}")

    def _heads(
        self, pieces: Sequence, limit: int, leads: dict[tuple[str, int], set[str]]
    ) -> set[str]:
        """All texts, cut to `limit` characters, that the pieces may begin with."""
        heads = {""}
        for piece in pieces:
            if all(len(head) >= limit for head in heads):
                break
            if isinstance(piece, str):
                nexts = {piece}
            elif isinstance(piece, Copy):
                nexts = {a.forms[piece.form] for a in self._bindings[piece.name].values()}
            else:
                key = (piece.rule.name, limit)
                if key not in leads:
                    every = (
                        self._heads(a.pieces, *key[1:], leads) for a in piece.rule.alternatives
                    )
                    leads[key] = set().union(*every)
                nexts = leads[key]
            heads = {(head + n)[:limit] for head in heads for n in nexts}
        return heads

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
