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

from gptlab.data.toy import grammar as engine
from gptlab.data.toy import stories, story_rules
from gptlab.data.toy.grammar import Grammar, Story
from gptlab.data.toy.grammar_rules import Choice, Copy, GrammarError

TOKEN = re.compile(r" ?\w[\w'-]*| ?[^\w\s]|\s")
PLOTS = list(stories.grammar().plots)


def names_of(rule: str) -> list[str]:
    return [name.partition("~")[0] for name in story_rules.RULES[rule]]


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [stories.write(7, i) for i in range(5000)]


# --- probability -------------------------------------------------------------------------------


def test_entropy_is_large_and_is_the_mean_surprise(stories):
    bits = stories.entropy() / math.log(2)
    assert 130 <= bits <= 160
    surprise = [-story.log_probability for story in stories[:2000]]
    error = statistics.stdev(surprise) / math.sqrt(len(surprise))
    assert error < 0.01 * stories.entropy()
    assert abs(statistics.mean(surprise) - stories.entropy()) < 4 * error


def test_every_story_has_one_derivation_of_its_own_probability(stories):
    for story in stories[:2000]:
        (derived,) = stories.grammar().derivations(story.text)
        assert (derived.text, derived.plot) == (story.text, story.plot)
        assert derived.log_probability == pytest.approx(story.log_probability, abs=1e-9)
        assert stories.log_probability(story.text) == derived.log_probability


@pytest.mark.parametrize("plot", PLOTS)
def test_all_stories_of_a_small_grammar(plot):
    """Each plot leaves other rules open, so that all have their turn."""
    whole = stories.grammar()
    reached, queue = set(), [plot, "opening", "when"]
    while queue:
        rule = whole.rules[queue.pop()]
        reached.add(rule.name)
        pieces = [piece for alternative in rule.alternatives for piece in alternative.pieces]
        queue += [piece.rule.name for piece in pieces if isinstance(piece, Choice)]
    names = random.Random(plot).sample(sorted(reached - {"opening"}), 10)
    small = whole.restrict(1, [plot], {"opening": 3} | dict.fromkeys(names, 3))
    while small.entropy() > math.log(1000):
        names.pop()
        small = whole.restrict(1, [plot], {"opening": 3} | dict.fromkeys(names, 3))
    every = list(small.derivations())
    assert len(every) > 100
    masses = [math.exp(story.log_probability) for story in every]
    assert math.fsum(masses) == pytest.approx(1, abs=1e-12)
    expected = -math.fsum(p * math.log(p) for p in masses)
    assert small.entropy() == pytest.approx(expected, abs=1e-9)
    texts = sorted(story.text for story in every)
    # A text that others begin with is, when sorted, right before one of them.
    assert not any(b.startswith(a) for a, b in itertools.pairwise(texts))
    for story in every[:: len(every) // 20]:
        assert small.log_probability(story.text) == pytest.approx(story.log_probability, abs=1e-9)
        assert whole.log_probability(story.text) < story.log_probability
    assert {small.write(0, i).text for i in range(50)} <= set(texts)


def test_sampling_follows_the_weights(stories):
    plots = Counter(story.plot for story in stories)
    assert len(plots) == len(PLOTS) >= 22
    for plot, probability in stories.grammar().plots.items():
        assert probability <= 0.08
        spread = math.sqrt(len(stories) * probability * (1 - probability))
        assert abs(plots[plot] - len(stories) * probability) < 4.5 * spread
    openings = Counter(story.text.split(",")[0] for story in stories)
    assert set(openings) == {"Once upon a time", "One day", "Long ago"}
    assert openings["Once upon a time"] / len(stories) == pytest.approx(0.5, abs=0.03)
    assert openings["Long ago"] / len(stories) == pytest.approx(0.15, abs=0.02)


# --- what is no story --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text() | st.integers(0, 300).map(lambda n: stories.write(0, n).text[:n]))
def test_any_string_can_be_asked_for(text):
    assert stories.log_probability(text) == -math.inf


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.text(min_size=1, max_size=3))
def test_text_around_a_story_is_rejected(seed, index, extra):
    text = stories.write(seed, index).text
    assert stories.log_probability(text) > -math.inf
    assert stories.log_probability(text + extra) == -math.inf
    assert stories.log_probability(extra + text) == -math.inf
    assert stories.log_probability(text[:-1]) == -math.inf


def test_a_changed_word_is_rejected_unless_it_makes_another_story(stories):
    rng = random.Random(3)
    vocabulary = sorted({word for s in stories for word in re.findall(r"[\w']+", s.text)})
    accepted = 0
    for story in stories[:1000]:
        word = rng.choice(list(re.finditer(r"[\w']+", story.text)))
        other = rng.choice([w for w in rng.sample(vocabulary, 2) if w != word[0]])
        changed = story.text[: word.start()] + other + story.text[word.end() :]
        for derived in stories.grammar().derivations(changed):
            accepted += 1
            assert derived.text == changed
    # Few random words fit: a choice is seldom from more than some forty of about nine hundred.
    assert accepted < 50


def test_copies_and_pronouns_must_agree(stories):
    girls = set(names_of("girl"))
    for story in stories[:200]:
        hero = re.search(r" named (\w+)", story.text)[1]
        last = story.text.rindex(hero)
        other = "Anna" if hero != "Anna" else "Mia"
        renamed = story.text[:last] + other + story.text[last + len(hero) :]
        assert stories.log_probability(renamed) == -math.inf
        pronoun, wrong = ("She", "He") if hero in girls else ("He", "She")
        assert f". {pronoun} " in story.text
        swapped = story.text.replace(f". {pronoun} ", f". {wrong} ", 1)
        assert stories.log_probability(swapped) == -math.inf


# --- sampling ----------------------------------------------------------------------------------


def test_writing_is_a_pure_function_of_seed_and_index():
    fresh = Grammar(story_rules.RULES)
    backwards = [fresh.write(5, i) for i in reversed(range(50))]
    assert backwards[::-1] == [stories.write(5, i) for i in range(50)]
    assert len({stories.write(s, i).text for s in range(20) for i in range(20)}) == 400
    assert stories.write(1, 23) != stories.write(12, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stories.write(5, 0).text = ""


def test_the_same_rules_keep_writing_the_same_stories():
    """Pins how draws become choices; a change here must raise engine.FORMAT."""
    rules = {
        "story": ("{hero:name} saw a {kind}. {plot}",),
        "name": ("Ann~she", "Bo~he", "Cy~he"),
        "kind": ("3* cat", "dog"),
        "plot": ("{one}", "{two}"),
        "one": ("{hero.He} and {name-hero} ran.",),
        "two": ("{hero} hid.",),
    }
    small = Grammar(rules)
    text = "\n".join(small.write(2, i).text for i in range(100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "53b33cff3d33247a"
    assert engine.FORMAT == 1


def test_fingerprint_is_that_of_words_and_weights():
    rules = dict(story_rules.RULES)
    same = stories.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", same)
    assert Grammar(rules).fingerprint() == same
    heavier = rules | {"toy": ("2* ball", *rules["toy"][1:])}
    other = rules | {"toy": ("globe", *rules["toy"][1:])}
    swapped = rules | {"toy": rules["toy"][::-1]}
    prints = {Grammar(r).fingerprint() for r in (heavier, other, swapped)}
    assert len(prints | {same}) == 4


# --- the text ----------------------------------------------------------------------------------


def test_vocabulary_is_rich_but_no_word_is_rare(stories):
    words = Counter(w for s in stories for w in set(re.findall(r"[\w'-]+", s.text.lower())))
    assert len(words) >= 550
    assert min(words.values()) >= len(stories) / 400
    assert len({token for s in stories for token in TOKEN.findall(s.text)}) <= 900


def test_text_is_one_plain_paragraph(stories):
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


def test_length_in_tokens(stories):
    lengths = [len(TOKEN.findall(story.text)) for story in stories]
    assert 95 < statistics.mean(lengths) < 112
    assert statistics.quantiles(lengths, n=20)[0] >= 70
    assert statistics.quantiles(lengths, n=20)[-1] <= 115


def test_no_story_at_all_is_longer_than_125_tokens():
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
                    size += here[piece.name] if isinstance(piece, Copy) else count(piece)
            sizes.append(size)
            known |= here
        if choice.bind:
            known[choice.bind] = max(sizes)
        return max(sizes), known

    grammar = stories.grammar()
    assert longest(Choice(grammar.rules["story"]), {})[0] <= 125


# --- the checks --------------------------------------------------------------------------------

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
def test_faulty_grammars_are_refused(change):
    Grammar(SMALL)
    with pytest.raises(GrammarError):
        Grammar(SMALL | change)


def test_restrict_names_an_unknown_plot():
    with pytest.raises(GrammarError, match="no_such_plot"):
        stories.grammar().restrict(1, ["no_such_plot"])


def test_rules_are_named_once_and_all_used():
    names = [name for section in story_rules.SECTIONS for name in section]
    assert len(names) == len(set(names))
    used = {"story"}
    for alternatives in story_rules.RULES.values():
        for text in alternatives:
            used |= set(re.findall(r"\{(?:\w+:)?(\w+)", text)) | {text.removeprefix("+")}
    assert set(names) <= used
