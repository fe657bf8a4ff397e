"""Tiny children's stories from a seeded grammar whose every probability is known.

The grammar (`toy_grammar`) is plain data: named rules, each a list of alternatives. Four
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from gptlab.data import toy_grammar

START = "story"
PLOT = "plot"
# Raised when the same rules would draw other stories, so that old cache keys lapse.
FORMAT = 1
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}
# How many leading characters to compare when telling alternatives apart, nearest first.
LOOKAHEAD = (4, 12, 24, 40)

_SLOT = re.compile(r"\{(?:(\w+):)?(\w+)(?:\.(\w+))?(?:-(\w+))?\}")
_WEIGHT = re.compile(r"(\d+)\* ")


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
    """One way to write a rule. `forms` are a plain filler's inflections, by name."""

    source: str
    pieces: tuple["str | Copy | Choice", ...]
    weight: int
    forms: dict[str, str]


@dataclass(eq=False, slots=True)
class Rule:
    """A named list of alternatives; `cumulative` is None where all weigh the same."""

    name: str
    alternatives: list[Alternative] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    cumulative: list[float] | None = None
    index: dict[str, int] = field(default_factory=dict)

    def settle(self) -> None:
        """Work out the probabilities once all alternatives are in."""
        total = sum(a.weight for a in self.alternatives)
        self.logs = [math.log(a.weight / total) for a in self.alternatives]
        self.index = {a.source: i for i, a in enumerate(self.alternatives)}
        if len({a.weight for a in self.alternatives}) > 1:
            running = 0
            self.cumulative = []
            for alternative in self.alternatives[:-1]:
                running += alternative.weight
                self.cumulative.append(running / total)


@dataclass(frozen=True, slots=True)
class Choice:
    """A slot that chooses from a rule, all but what the slot `exclude` chose."""

    rule: Rule
    bind: str | None
    form: str
    exclude: str | None

    def options(self, bound: Mapping[str, Alternative]) -> list[tuple[Alternative, float]]:
        """The alternatives open here, each with its log probability (nats)."""
        pairs = list(zip(self.rule.alternatives, self.rule.logs, strict=True))
        if self.exclude is not None:
            del pairs[self.rule.index[bound[self.exclude].source]]
            pairs = [(alternative, -math.log(len(pairs))) for alternative, _ in pairs]
        return pairs


def _forms(word: str, tag: str) -> dict[str, str]:
    """A filler's inflections: itself, with its article and, for a name, its pronouns."""
    forms = {"": word, "a": ("an " if word[0] in "aeiou" else "a ") + word}
    if tag:
        he, him, his = PRONOUNS[tag]
        forms |= {"he": he, "him": him, "his": his}
        forms |= {"He": he.capitalize(), "His": his.capitalize()}
    return forms


class Grammar:
    """A grammar compiled from rules given as text (the notation is told in `toy_grammar`).

    Raises GrammarError where the text is malformed or `check` finds a fault.
    """

    def __init__(self, source: Mapping[str, Sequence[str]]) -> None:
        self.source = {name: tuple(alternatives) for name, alternatives in source.items()}
        self.rules = {name: Rule(name) for name in self.source}
        for name, rule in self.rules.items():
            rule.alternatives = [self._alternative(text) for text in self._flat(name)]
            rule.settle()
        self._start = Choice(self.rules[START], None, "", None)
        self.bindings: dict[str, dict[str, Alternative]] = {}
        self._leads = cache(self._rule_leads)
        self.check()

    def _flat(self, name: str) -> Iterator[str]:
        """A rule's alternatives, with `+other` replaced by all those of the other rule."""
        for text in self.source[name]:
            if text.startswith("+"):
                yield from self._flat(text[1:])
            else:
                yield text

    def _alternative(self, text: str) -> Alternative:
        weight = _WEIGHT.match(text)
        body, _, tag = text[weight.end() if weight else 0 :].partition("~")
        pieces: list[str | Copy | Choice] = []
        end = 0
        for slot in _SLOT.finditer(body):
            if slot.start() > end:
                pieces.append(body[end : slot.start()])
            pieces.append(self._slot(*slot.groups()))
            end = slot.end()
        if end < len(body):
            pieces.append(body[end:])
        if not pieces or any("{" in p or "}" in p for p in pieces if isinstance(p, str)):
            raise GrammarError(f"malformed alternative: {text!r}")
        plain = len(pieces) == 1 and isinstance(pieces[0], str)
        count = int(weight[1]) if weight else 1
        return Alternative(body, tuple(pieces), count, _forms(body, tag) if plain else {})

    def _slot(
        self, bind: str | None, name: str, form: str | None, exclude: str | None
    ) -> Copy | Choice:
        if name in self.rules:
            return Choice(self.rules[name], bind, form or "", exclude)
        if bind or exclude:
            raise GrammarError(f"no rule named {name!r}")
        return Copy(name, form or "")

    # --- checks -------------------------------------------------------------------------

    def check(self) -> None:
        """Raise GrammarError unless stories are unambiguous and their entropy analytic."""
        for rule in self.rules.values():
            for alternative in rule.alternatives:
                for piece in alternative.pieces:
                    if isinstance(piece, Choice) and piece.bind:
                        fillers = {a.source: a for a in piece.rule.alternatives}
                        self.bindings.setdefault(piece.bind, {}).update(fillers)
        self._check_order(self.rules[START], frozenset())
        for rule in self.rules.values():
            self._check_told_apart(rule)

    def _check_order(self, rule: Rule, known: frozenset[str]) -> frozenset[str]:
        """Check that slots are bound once, before use; return those surely bound after."""
        after = []
        for alternative in rule.alternatives:
            bound = known
            for piece in alternative.pieces:
                if isinstance(piece, Copy):
                    self._check_copy(piece, bound)
                elif isinstance(piece, Choice):
                    bound = self._check_choice(piece, bound)
            after.append(bound)
        return frozenset.intersection(*after)

    def _check_copy(self, piece: Copy, bound: frozenset[str]) -> None:
        if piece.name not in bound:
            raise GrammarError(f"{piece.name!r} is used before it is chosen")
        if any(piece.form not in a.forms for a in self.bindings[piece.name].values()):
            raise GrammarError(f"{[k for k in self.bindings[piece.name].items() if piece.form not in k[1].forms][:3]} {piece.name!r} does not always have a form {piece.form!r}")

    def _check_choice(self, piece: Choice, bound: frozenset[str]) -> frozenset[str]:
        rule = piece.rule
        if piece.bind in bound:
            raise GrammarError(f"{piece.bind!r} is chosen twice")
        if piece.exclude is not None:
            # Leaving one of n equals always leaves n - 1 equals: that keeps entropy exact.
            if piece.exclude not in bound or rule.cumulative is not None:
                raise GrammarError(f"{rule.name!r} cannot leave out {piece.exclude!r}")
            if not self.bindings[piece.exclude].keys() <= rule.index.keys():
                raise GrammarError(f"{piece.exclude!r} may not be among {rule.name!r}")
        if piece.bind or piece.form or piece.exclude:
            if any(piece.form not in a.forms for a in rule.alternatives):
                raise GrammarError(f"{rule.name!r} has more than plain fillers")
            return bound | {piece.bind} if piece.bind else bound
        return self._check_order(rule, bound)

    def _check_told_apart(self, rule: Rule) -> None:
        """Check that no alternative can begin with all that another may emit."""
        clash = ""
        for limit in LOOKAHEAD:
            heads = sorted(
                (head, i)
                for i, alternative in enumerate(rule.alternatives)
                for head in self._heads(alternative.pieces, limit)
            )
            clash, last = "", heads[0]
            for head in heads[1:]:
                if not head[0].startswith(last[0]):
                    last = head
                elif head[1] != last[1]:
                    clash = head[0]
                    break
            if not clash:
                return
        raise GrammarError(f"alternatives of {rule.name!r} look alike: {clash!r}")

    def _heads(self, pieces: Sequence[str | Copy | Choice], limit: int) -> set[str]:
        """All texts, cut to `limit` characters, that the pieces may begin with."""
        heads = {""}
        for piece in pieces:
            if all(len(head) >= limit for head in heads):
                break
            if isinstance(piece, str):
                nexts = {piece[:limit]}
            elif isinstance(piece, Copy):
                fillers = self.bindings[piece.name].values()
                nexts = {a.forms[piece.form][:limit] for a in fillers}
            else:
                nexts = self._leads(piece.rule.name, piece.form, limit)
            heads = {(head + n)[:limit] for head in heads for n in nexts}
        return heads

    def _rule_leads(self, name: str, form: str, limit: int) -> set[str]:
        alternatives = self.rules[name].alternatives
        if form:
            return {a.forms[form][:limit] for a in alternatives}
        return set().union(*(self._heads(a.pieces, limit) for a in alternatives))

    # --- readings -----------------------------------------------------------------------

    def entropy(self) -> float:
        """The entropy of a story, in nats: the best possible mean loss on one."""

        @cache
        def of_rule(name: str) -> float:
            rule = self.rules[name]
            pairs = zip(rule.alternatives, rule.logs, strict=True)
            return math.fsum(math.exp(log) * (of_pieces(a) - log) for a, log in pairs)

        def of_pieces(alternative: Alternative) -> float:
            slots = [p for p in alternative.pieces if isinstance(p, Choice)]
            return math.fsum(
                math.log(len(p.rule.alternatives) - 1) if p.exclude else of_rule(p.rule.name)
                for p in slots
            )

        return of_rule(START)

    def write(self, seed: int, index: int) -> Story:
        """The story numbered `index` of the endless run named by `seed`; a pure function."""
        digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
        draw = random.Random(int.from_bytes(digest, "big")).random
        out: list[str] = []
        plots: list[str] = []
        total = self._emit(self._start, draw, {}, out, plots)
        return Story("".join(out), plots[0], total)

    def _emit(
        self,
        choice: Choice,
        draw: Callable[[], float],
        bound: dict[str, Alternative],
        out: list[str],
        plots: list[str],
    ) -> float:
        """Append the text of one drawn alternative to `out`; return its log probability."""
        rule = choice.rule
        count = len(rule.alternatives)
        if choice.exclude is not None:
            i = int(draw() * (count - 1))
            i += i >= rule.index[bound[choice.exclude].source]
            total = -math.log(count - 1)
        else:
            cumulative = rule.cumulative
            i = int(draw() * count) if cumulative is None else bisect_right(cumulative, draw())
            total = rule.logs[i]
        alternative = rule.alternatives[i]
        if alternative.forms:
            out.append(alternative.forms[choice.form])
            if choice.bind is not None:
                bound[choice.bind] = alternative
            return total
        if rule.name == PLOT:
            plots.append(alternative.pieces[0].rule.name)
        for piece in alternative.pieces:
            if type(piece) is str:
                out.append(piece)
            elif type(piece) is Copy:
                out.append(bound[piece.name].forms[piece.form])
            else:
                total += self._emit(piece, draw, bound, out, plots)
        return total

    def derivations(self, text: str | None = None) -> Iterator[Story]:
        """Every way to derive `text`, or, without one, every story of the grammar.

        A search that gives up nowhere but where the text already differs, so that it finds a
        second derivation if there is one. Listing all is for grammars cut down by `restrict`.
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
        an earlier choice is left out keep two at least. Raises GrammarError for no such plot.
        """
        unknown = set(plots) - self.plots.keys()
        if unknown:
            raise GrammarError(f"no plots named {sorted(unknown)}")
        slots = [p for r in self.rules.values() for a in r.alternatives for p in a.pieces]
        paired = {p.rule.name for p in slots if isinstance(p, Choice) and p.exclude}
        source = {}
        for name, alternatives in self.source.items():
            width = max((widths or {}).get(name, keep), 2 if name in paired else 1)
            source[name] = alternatives[:width]
        wanted = [f"{{{name}}}" for name in plots]
        every = self.source[PLOT]
        source[PLOT] = [a for a in every if not plots or _WEIGHT.sub("", a) in wanted]
        return Grammar(source)


def _branches(piece: Choice, state: tuple, text: str | None) -> Iterator[tuple]:
    """The states that follow a choice, less those that the text rules out at once."""
    done, rest, bound, plot, total = state
    for alternative, log in piece.options(bound):
        pieces = (alternative.forms[piece.form],) if piece.form else alternative.pieces
        first = pieces[0]
        if text is not None and isinstance(first, str) and not text.startswith(first, len(done)):
            continue
        known = bound | {piece.bind: alternative} if piece.bind else bound
        name = pieces[0].rule.name if piece.rule.name == PLOT else plot
        yield done, (pieces, 0, rest), known, name, total + log


@cache
def grammar() -> Grammar:
    """The whole grammar, compiled and checked on first use."""
    return Grammar(toy_grammar.RULES)


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
