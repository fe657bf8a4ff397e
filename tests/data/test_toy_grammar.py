"""The story grammar: exact probabilities, unambiguous rules, readable text."""

import dataclasses
import hashlib
import itertools
import math
import random
import re
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.toy import grammar as grammar_module
from gptlab.data.toy.grammar import Grammar, Story, plot_name
from gptlab.data.toy.grammar_parser import BackReference, Choice, GrammarError
from gptlab.data.toy.stories import story_grammar
from gptlab.data.toy.story_rules import RULES, SECTIONS

TOKEN = re.compile(r" ?\w[\w'-]*| ?[^\w\s]|\s")
GRAMMAR = story_grammar()
RULE = GRAMMAR.rules["plot"]
PLOTS = {plot_name(a): math.exp(log) for a, log in zip(RULE.alternatives, RULE.logs, strict=True)}


def restrict(plot: str, widths: dict[str, int]) -> Grammar:
    """Keep one plot, and of each rule the first alternatives: `widths` of them, or else one.

    Rules that exclude an earlier choice keep at least two.
    """
    slots = (p for r in GRAMMAR.rules.values() for a in r.alternatives for p in a.pieces)
    excluding = {p.rule.name for p in slots if isinstance(p, Choice) and p.exclude}
    small = {
        name: alternatives[: max(widths.get(name, 1), 2 if name in excluding else 1)]
        for name, alternatives in GRAMMAR.source.items()
    }
    return Grammar(small | {"plot": (f"{{{plot}}}",)})


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [GRAMMAR.generate(7, i) for i in range(5000)]


# --- probability -------------------------------------------------------------------------------


def test_entropy_equals_the_mean_surprise(stories):
    bits = GRAMMAR.entropy() / math.log(2)
    assert 130 <= bits <= 160
    surprise = [-story.log_probability for story in stories[:2000]]
    error = statistics.stdev(surprise) / math.sqrt(len(surprise))
    assert error < 0.01 * GRAMMAR.entropy()
    assert abs(statistics.mean(surprise) - GRAMMAR.entropy()) < 4 * error


def test_each_story_has_one_derivation_with_its_probability(stories):
    for story in stories[:2000]:
        (derived,) = GRAMMAR.derivations(story.text)
        assert (derived.text, derived.plot) == (story.text, story.plot)
        assert derived.log_probability == pytest.approx(story.log_probability, abs=1e-9)
        assert GRAMMAR.log_probability(story.text) == derived.log_probability


@pytest.mark.parametrize("plot", PLOTS)
def test_probabilities_of_all_stories_of_a_small_grammar_sum_to_one(plot):
    """Each plot widens other rules, so that together they cover the grammar."""
    whole = GRAMMAR
    reached, queue = set(), [plot, "opening", "when"]
    while queue:
        rule = whole.rules[queue.pop()]
        reached.add(rule.name)
        pieces = [piece for alternative in rule.alternatives for piece in alternative.pieces]
        queue += [piece.rule.name for piece in pieces if isinstance(piece, Choice)]
    names = random.Random(plot).sample(sorted(reached - {"opening"}), 10)
    small = restrict(plot, {"opening": 3} | dict.fromkeys(names, 3))
    while small.entropy() > math.log(1000):
        names.pop()
        small = restrict(plot, {"opening": 3} | dict.fromkeys(names, 3))
    every = list(small.derivations())
    assert len(every) > 100
    masses = [math.exp(story.log_probability) for story in every]
    assert math.fsum(masses) == pytest.approx(1, abs=1e-12)
    expected = -math.fsum(p * math.log(p) for p in masses)
    assert small.entropy() == pytest.approx(expected, abs=1e-9)
    texts = sorted(story.text for story in every)
    # A prefix of another text would be, when sorted, right before one of them.
    assert not any(b.startswith(a) for a, b in itertools.pairwise(texts))
    for story in every[:: len(every) // 20]:
        assert small.log_probability(story.text) == pytest.approx(story.log_probability, abs=1e-9)
        assert whole.log_probability(story.text) < story.log_probability
    assert {small.generate(0, i).text for i in range(50)} <= set(texts)


def test_stories_follow_the_weights(stories):
    plots = Counter(story.plot for story in stories)
    assert len(plots) == len(PLOTS) >= 22
    for plot, probability in PLOTS.items():
        assert probability <= 0.08
        spread = math.sqrt(len(stories) * probability * (1 - probability))
        assert abs(plots[plot] - len(stories) * probability) < 4.5 * spread
    openings = Counter(story.text.split(",")[0] for story in stories)
    assert set(openings) == {"Once upon a time", "One day", "Long ago"}
    assert openings["Once upon a time"] / len(stories) == pytest.approx(0.5, abs=0.03)
    assert openings["Long ago"] / len(stories) == pytest.approx(0.15, abs=0.02)


# --- texts that are not stories ----------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text() | st.integers(0, 300).map(lambda n: GRAMMAR.generate(0, n).text[:n]))
def test_any_string_has_a_log_probability(text):
    assert GRAMMAR.log_probability(text) == -math.inf


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.text(min_size=1, max_size=3))
def test_a_story_with_extra_text_is_rejected(seed, index, extra):
    text = GRAMMAR.generate(seed, index).text
    assert GRAMMAR.log_probability(text) > -math.inf
    assert GRAMMAR.log_probability(text + extra) == -math.inf
    assert GRAMMAR.log_probability(extra + text) == -math.inf
    assert GRAMMAR.log_probability(text[:-1]) == -math.inf


def test_a_story_with_a_random_word_is_rejected(stories):
    rng = random.Random(3)
    vocabulary = sorted({word for s in stories for word in re.findall(r"[\w']+", s.text)})
    accepted = 0
    for story in stories[:1000]:
        word = rng.choice(list(re.finditer(r"[\w']+", story.text)))
        other = rng.choice([w for w in rng.sample(vocabulary, 2) if w != word[0]])
        changed = story.text[: word.start()] + other + story.text[word.end() :]
        for derived in GRAMMAR.derivations(changed):
            accepted += 1
            assert derived.text == changed
    # Few random words fit: most choices have at most forty of about nine hundred words.
    assert accepted < 50


def test_copies_and_pronouns_must_agree(stories):
    girls = {name.partition("~")[0] for name in RULES["girl"]}
    for story in stories[:200]:
        hero = re.search(r" named (\w+)", story.text)[1]
        last = story.text.rindex(hero)
        other = "Anna" if hero != "Anna" else "Mia"
        renamed = story.text[:last] + other + story.text[last + len(hero) :]
        assert GRAMMAR.log_probability(renamed) == -math.inf
        pronoun, wrong = ("She", "He") if hero in girls else ("He", "She")
        assert f". {pronoun} " in story.text
        swapped = story.text.replace(f". {pronoun} ", f". {wrong} ", 1)
        assert GRAMMAR.log_probability(swapped) == -math.inf


# --- generating --------------------------------------------------------------------------------


@pytest.mark.fast
def test_stories_are_a_pure_function_of_seed_and_index():
    fresh = Grammar(RULES)
    backwards = [fresh.generate(5, i) for i in reversed(range(50))]
    assert backwards[::-1] == [GRAMMAR.generate(5, i) for i in range(50)]
    assert len({GRAMMAR.generate(s, i).text for s in range(20) for i in range(20)}) == 400
    assert GRAMMAR.generate(1, 23) != GRAMMAR.generate(12, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRAMMAR.generate(5, 0).text = ""


@pytest.mark.fast
def test_stories_stay_the_same_across_versions():
    """A change of the stories must raise grammar.FORMAT."""
    rules = {
        "story": ("{hero:name} saw a {kind}. {plot}",),
        "name": ("Ann~she", "Bo~he", "Cy~he"),
        "kind": ("3* cat", "dog"),
        "plot": ("{one}", "{two}"),
        "one": ("{hero.He} and {name-hero} ran.",),
        "two": ("{hero} hid.",),
    }
    small = Grammar(rules)
    text = "\n".join(small.generate(2, i).text for i in range(100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "53b33cff3d33247a"
    assert grammar_module.FORMAT == 1


def test_fingerprint_changes_with_words_and_weights():
    rules = dict(RULES)
    same = GRAMMAR.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", same)
    assert Grammar(rules).fingerprint() == same
    heavier = rules | {"toy": ("2* ball", *rules["toy"][1:])}
    other = rules | {"toy": ("globe", *rules["toy"][1:])}
    swapped = rules | {"toy": rules["toy"][::-1]}
    prints = {Grammar(r).fingerprint() for r in (heavier, other, swapped)}
    assert len(prints | {same}) == 4


# --- the text ----------------------------------------------------------------------------------


def test_vocabulary_is_large_and_no_word_is_rare(stories):
    words = Counter(w for s in stories for w in set(re.findall(r"[\w'-]+", s.text.lower())))
    assert len(words) >= 550
    assert min(words.values()) >= len(stories) / 400
    assert len({token for s in stories for token in TOKEN.findall(s.text)}) <= 900


def test_a_story_is_one_plain_paragraph(stories):
    for story in stories:
        text = story.text
        assert text.isascii() and text.isprintable()
        assert "  " not in text and text == text.strip()
        assert text[-1] in ".!?"
        assert not re.search(r" [.,!?]|[.,!?]\w|\.\.", text)
        assert not re.search(r"\ba [aeiou]|\ban (?!honest|hour)|[.!?] [a-z]", text)
        assert text.count('"') % 2 == 0
        hero = re.search(r" named (\w+)", text)[1]
        assert len(re.findall(rf"\b{hero}\b", text)) >= 3


def test_story_lengths_in_tokens(stories):
    lengths = [len(TOKEN.findall(story.text)) for story in stories]
    assert 95 < statistics.mean(lengths) < 112
    assert statistics.quantiles(lengths, n=20)[0] >= 70
    assert statistics.quantiles(lengths, n=20)[-1] <= 115


def test_no_possible_story_is_longer_than_125_tokens():
    def count(text: str) -> int:
        return len(re.findall(r"\w[\w'-]*|[^\w\s]", text))

    def longest(choice: Choice, bound: dict[str, int]) -> tuple[int, dict[str, int]]:
        sizes, known = [], dict(bound)
        for alternative in choice.rule.alternatives:
            size, here = 0, dict(bound)
            for piece in alternative.pieces:
                if isinstance(piece, Choice):
                    more, here = longest(piece, here)
                    size += more
                else:
                    size += here[piece.name] if isinstance(piece, BackReference) else count(piece)
            sizes.append(size)
            known |= here
        if choice.bind:
            known[choice.bind] = max(sizes)
        return max(sizes), known

    assert longest(Choice(GRAMMAR.rules["story"]), {})[0] <= 125


# --- checks of the rules -----------------------------------------------------------------------

SMALL = {
    "story": ("{hero:name} {verb}. {plot}",),
    "name": ("Ann~she", "Bo~he", "Cy~he"),
    "verb": ("ran", "sang"),
    "plot": ("{end}",),
    "end": ("{hero.He} met {name-hero}.", "All was well."),
}


@pytest.mark.parametrize(
    "change",
    [
        {"verb": ("ran", "ran off")},
        {"verb": ("ran", "ran")},
        {"verb": ("{name} sang", "{hero} ran", "Ann ran")},
        {"end": ("{hero.He} slept.", "She slept.")},
        {"end": ("{hero} met {name}.", "{hero} met {name-hero}.")},
        {"end": ("{friend} slept.",)},
        {"end": ("{hero.hers} slept.",)},
        {"end": ("{hero:name} slept.",)},
        {"end": ("{verb-hero} well.",)},
        {"end": ("{who:end} slept.",)},
        {"end": ("{it:nothing} slept.",)},
        {"end": ("{hero slept.",)},
        {"end": ("",)},
        {"end": ("+nothing",)},
        {"plot": ("All was well.",)},
        {"name": ("Ann~it", "Bo~he", "Cy~he")},
        {"name": ("2* Ann~she", "Bo~he", "Cy~he")},
    ],
)
def test_malformed_or_ambiguous_grammars_are_refused(change):
    Grammar(SMALL)
    with pytest.raises(GrammarError):
        Grammar(SMALL | change)


def test_every_rule_is_used_and_named_once():
    names = [name for section in SECTIONS for name in section]
    assert len(names) == len(set(names))
    used = {"story"}
    for alternatives in RULES.values():
        for text in alternatives:
            used |= set(re.findall(r"\{(?:\w+:)?(\w+)", text)) | {text.removeprefix("+")}
    assert set(names) <= used
