"""The rules of a grammar: read from their notation, and proved to be unambiguous.

At every choice, no alternative can emit a text that is a prefix of what another can emit, and
copies of earlier choices are fixed by what was already read. By induction over the rules, a text
has at most one derivation and no text is a proper prefix of another.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

START = "story"
PLOT = "plot"
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}
# How many leading characters to compare when telling alternatives apart, nearest first.
LOOKAHEAD = (4, 12, 24, 40)

_SLOT = re.compile(r"\{(?:(\w+):)?(\w+)(?:\.(\w+))?(?:-(\w+))?\}")
_ALTERNATIVE = re.compile(r"(?:(\d+)\* )?(.*?)(?:~(\w+))?")


class GrammarError(ValueError):
    """The grammar's data breaks one of the rules that make its probabilities exact."""


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


Source = Mapping[str, Sequence[str]]


def compile_rules(source: Source) -> dict[str, Rule]:
    """Rules by name, from text in the notation that `toy_grammar` tells.

    Raises GrammarError where the text is malformed, or a text could be derived in two ways.
    """
    rules = {name: Rule(name) for name in source}
    for name, rule in rules.items():
        rule.fill([compile_alternative(text, rules) for text in flat(source, name)])
    Checker(rules).check()
    return rules


def flat(source: Source, name: str) -> Iterator[str]:
    """A rule's alternatives, with `+other` replaced by all those of the other rule."""
    for text in source[name]:
        if not text.startswith("+"):
            yield text
        elif text[1:] in source:
            yield from flat(source, text[1:])
        else:
            raise GrammarError(f"no rule named {text[1:]!r}")


def compile_alternative(source: str, rules: Mapping[str, Rule]) -> Alternative:
    """One alternative of the notation; raises GrammarError."""
    weight, text, tag = _ALTERNATIVE.fullmatch(source).groups()
    pieces: list[str | Copy | Choice] = []
    end = 0
    for slot in _SLOT.finditer(text):
        bind, name, form, exclude = slot.groups()
        pieces.append(text[end : slot.start()])
        if name in rules:
            pieces.append(Choice(rules[name], bind, exclude))
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


class Checker:
    """Looks whether texts are unambiguous and their entropy analytic."""

    def __init__(self, rules: Mapping[str, Rule]):
        self.rules = rules
        self.bindings: dict[str, dict[str, Alternative]] = {}  # what a name may be bound to

    def check(self) -> None:
        """Raise GrammarError unless stories are unambiguous and their entropy analytic."""
        for rule in self.rules.values():
            for piece in (p for a in rule.alternatives for p in a.pieces):
                if isinstance(piece, Choice) and piece.bind:
                    fillers = {a.text: a for a in piece.rule.alternatives}
                    self.bindings.setdefault(piece.bind, {}).update(fillers)
        for alternative in self.rules[PLOT].alternatives:
            if len(alternative.pieces) > 1 or not isinstance(alternative.pieces[0], Choice):
                raise GrammarError(f"a plot is one slot, not {alternative.text!r}")
        self.order(Choice(self.rules[START]), frozenset())
        leads: dict[tuple[str, int], set[str]] = {}
        for rule in self.rules.values():
            self.told_apart(rule, leads)

    def order(self, choice: Choice, known: frozenset[str]) -> frozenset[str]:
        """Check that slots are bound once, before use; return those surely bound after."""
        rule, after = choice.rule, []
        if choice.exclude is not None:
            # Leaving one of n equals always leaves n - 1 equals: that keeps entropy exact.
            if choice.exclude not in known or rule.cumulative or len(rule.index) < 2:
                raise GrammarError(f"{rule.name!r} cannot leave out {choice.exclude!r}")
            if not self.bindings[choice.exclude].keys() <= rule.index.keys():
                raise GrammarError(f"{choice.exclude!r} may not be among {rule.name!r}")
        if choice.bind or choice.exclude:
            if choice.bind in known or not all(a.forms for a in rule.alternatives):
                raise GrammarError(f"{rule.name!r} cannot be bound to {choice.bind!r}")
            return known | {choice.bind} if choice.bind else known
        for alternative in rule.alternatives:
            bound = known
            for piece in alternative.pieces:
                if isinstance(piece, Choice):
                    bound = self.order(piece, bound)
                elif isinstance(piece, Copy):
                    fillers = self.bindings[piece.name].values() if piece.name in bound else ()
                    if not fillers or any(piece.form not in a.forms for a in fillers):
                        raise GrammarError(f"{piece} is not known in {alternative.text!r}")
            after.append(bound)
        return frozenset.intersection(*after)

    def told_apart(self, rule: Rule, leads: dict[tuple[str, int], set[str]]) -> None:
        """Check that no alternative can begin with all that another may emit."""
        clash = ""
        for limit in LOOKAHEAD:
            heads = sorted(
                (head, i)
                for i, alternative in enumerate(rule.alternatives)
                for head in self.heads(alternative.pieces, limit, leads)
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

    def heads(
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
                nexts = {a.forms[piece.form] for a in self.bindings[piece.name].values()}
            else:
                key = (piece.rule.name, limit)
                if key not in leads:
                    every = (self.heads(a.pieces, *key[1:], leads) for a in piece.rule.alternatives)
                    leads[key] = set().union(*every)
                nexts = leads[key]
            heads = {(head + n)[:limit] for head in heads for n in nexts}
        return heads
