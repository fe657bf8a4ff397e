"""Parse the rules of a grammar and check that they are unambiguous.

At every choice, no alternative generates a prefix of what another can generate, and copies repeat
what was already chosen. By induction over the rules, a text has at most one derivation, and no
text is a proper prefix of another.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

START = "story"
PLOT = "plot"
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}
LOOKAHEAD = (4, 12, 24, 40)  # leading characters by which to distinguish alternatives

SLOT = re.compile(r"\{(?:(\w+):)?(\w+)(?:\.(\w+))?(?:-(\w+))?\}")
ALTERNATIVE = re.compile(r"(?:(\d+)\* )?(.*?)(?:~(\w+))?")


class GrammarError(ValueError):
    """The rules are malformed, or their probabilities would not be exact."""


@dataclass(frozen=True, slots=True)
class BackReference:
    """A slot that repeats the choice of an earlier slot, perhaps in another form."""

    name: str
    form: str


@dataclass(eq=False, slots=True)
class Alternative:
    """One expansion of a rule; `forms` has the inflections of a plain text, and is else empty."""

    text: str
    weight: int
    pieces: tuple["str | BackReference | Choice", ...]
    forms: dict[str, str]


@dataclass(eq=False, slots=True)
class Rule:
    """A named list of alternatives; `cumulative` is None if all weights are equal."""

    name: str
    alternatives: list[Alternative] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    cumulative: list[float] | None = None
    index: dict[str, int] = field(default_factory=dict)

    def set_alternatives(self, alternatives: list[Alternative]) -> None:
        """Store the alternatives and compute their probabilities."""
        self.alternatives = alternatives
        self.index = {a.text: i for i, a in enumerate(alternatives)}
        weights = [a.weight for a in alternatives]
        self.logs = [math.log(weight / sum(weights)) for weight in weights]
        if len(set(weights)) > 1:
            self.cumulative = [total / sum(weights) for total in accumulate(weights[:-1])]


@dataclass(frozen=True, slots=True)
class Choice:
    """A slot that chooses an alternative of a rule, except the choice of the slot `exclude`."""

    rule: Rule
    bind: str | None = None
    exclude: str | None = None


RuleTexts = Mapping[str, Sequence[str]]


def compile_rules(source: RuleTexts) -> dict[str, Rule]:
    """Parse rules in the notation of story_rules.py.

    Raises GrammarError if a rule is malformed, or if a text could be derived in two ways.
    """
    rules = {name: Rule(name) for name in source}
    for name, rule in rules.items():
        texts = expand_includes(source, name)
        rule.set_alternatives([compile_alternative(text, rules) for text in texts])
    AmbiguityChecker(rules).check()
    return rules


def expand_includes(source: RuleTexts, name: str) -> Iterator[str]:
    """Yield a rule's alternatives, with `+other` replaced by those of the other rule."""
    for text in source[name]:
        if not text.startswith("+"):
            yield text
        elif text[1:] in source:
            yield from expand_includes(source, text[1:])
        else:
            raise GrammarError(f"no rule named {text[1:]!r}")


def compile_alternative(source: str, rules: Mapping[str, Rule]) -> Alternative:
    """Parse one alternative; raises GrammarError."""
    match = ALTERNATIVE.fullmatch(source)
    if match is None:
        raise GrammarError(f"malformed alternative: {source!r}")
    weight, text, pronoun = match.groups()
    pieces: list[str | BackReference | Choice] = []
    end = 0
    for slot in SLOT.finditer(text):
        bind, name, form, exclude = slot.groups()
        choice = Choice(rules[name], bind, exclude) if name in rules else None
        pieces += [text[end : slot.start()], choice or BackReference(name, form or "")]
        end = slot.end()
    pieces = [piece for piece in (*pieces, text[end:]) if piece != ""]
    stray = any(set(piece) & set("{}~|") for piece in pieces if isinstance(piece, str))
    if not pieces or stray or pronoun not in (None, *PRONOUNS):
        raise GrammarError(f"malformed alternative: {source!r}")
    forms = {"": text} if pieces == [text] else {}
    if pronoun:
        forms |= dict(zip(("he", "him", "his"), PRONOUNS[pronoun], strict=True))
        forms |= {form.capitalize(): forms[form].capitalize() for form in ("he", "his")}
    return Alternative(text, int(weight or 1), tuple(pieces), forms)


class AmbiguityChecker:
    """Check that stories are unambiguous and that their entropy has a closed form."""

    def __init__(self, rules: Mapping[str, Rule]):
        self.rules = rules
        self.bindings: dict[str, dict[str, Alternative]] = {}  # possible choices by name
        self.rule_prefixes: dict[tuple[str, int], set[str]] = {}  # by rule and their length

    def check(self) -> None:
        """Raise GrammarError if a check fails."""
        for rule in self.rules.values():
            for piece in (p for a in rule.alternatives for p in a.pieces):
                if isinstance(piece, Choice) and piece.bind:
                    fillers = {a.text: a for a in piece.rule.alternatives}
                    self.bindings.setdefault(piece.bind, {}).update(fillers)
        for alternative in self.rules[PLOT].alternatives:
            if len(alternative.pieces) > 1 or not isinstance(alternative.pieces[0], Choice):
                raise GrammarError(f"a plot is one slot, not {alternative.text!r}")
        self.check_bindings(Choice(self.rules[START]), frozenset())
        for rule in self.rules.values():
            self.check_distinct(rule)

    def check_bindings(self, choice: Choice, known: frozenset[str]) -> frozenset[str]:
        """Check that names are bound once and before use; return those bound afterwards."""
        rule, after = choice.rule, []
        if choice.exclude is not None:
            # Excluding one of n equal weights leaves n - 1 equal weights: entropy stays exact.
            if choice.exclude not in known or rule.cumulative or len(rule.index) < 2:
                raise GrammarError(f"{rule.name!r} cannot exclude {choice.exclude!r}")
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
                    bound = self.check_bindings(piece, bound)
                elif isinstance(piece, BackReference):
                    fillers = self.bindings[piece.name].values() if piece.name in bound else ()
                    if not fillers or any(piece.form not in a.forms for a in fillers):
                        raise GrammarError(f"{piece} is not bound in {alternative.text!r}")
            after.append(bound)
        return frozenset.intersection(*after)

    def check_distinct(self, rule: Rule) -> None:
        """Check that no alternative generates a prefix of what another can generate."""
        clash = ""
        for limit in LOOKAHEAD:
            prefixes = sorted(
                (prefix, i)
                for i, alternative in enumerate(rule.alternatives)
                for prefix in self.prefixes(alternative, limit)
            )
            clash, (last, owner) = "", prefixes[0]
            for prefix, i in prefixes:
                if not prefix.startswith(last):
                    last, owner = prefix, i
                elif i != owner:
                    clash = prefix
            if not clash:
                return
        raise GrammarError(f"alternatives of {rule.name!r} are ambiguous: {clash!r}")

    def prefixes(self, alternative: Alternative, limit: int) -> set[str]:
        """Return all texts that the alternative can start with, cut to `limit` characters."""
        prefixes = {""}
        for piece in alternative.pieces:
            if all(len(prefix) >= limit for prefix in prefixes):
                break
            if isinstance(piece, str):
                texts = {piece}
            elif isinstance(piece, BackReference):
                texts = {a.forms[piece.form] for a in self.bindings[piece.name].values()}
            else:
                key = (piece.rule.name, limit)
                if key not in self.rule_prefixes:
                    texts = set().union(*(self.prefixes(a, limit) for a in piece.rule.alternatives))
                    self.rule_prefixes[key] = texts
                texts = self.rule_prefixes[key]
            prefixes = {(prefix + text)[:limit] for prefix in prefixes for text in texts}
        return prefixes
