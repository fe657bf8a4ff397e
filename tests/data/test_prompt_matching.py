"""Prompts with words that the vocabulary lacks."""

import pytest

from gptlab.config.schema import TokenizerConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import CharTokenizer, GPT2Tokenizer, WordTokenizer, decode
from gptlab.utils.errors import UserError

TEXT = 'Once, the old fox said "hi". The dog has a ball. It is Tom\'s. A red hen.\n'
WORDS = WordTokenizer.train([TEXT], TokenizerConfig(name="words"))
CHARS = CharTokenizer.train([TEXT], TokenizerConfig(name="char"))
FEW_WORDS = TokenizerConfig(name="words", max_words=9)
SPELLING = WordTokenizer.train([TEXT * 3, "b c d e f g"], FEW_WORDS)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("tokenizer", "typed", "read", "skipped"),
    [
        (WORDS, "Once, the old fox", "Once, the old fox", []),
        (WORDS, "Hello", "", ["Hello"]),
        (WORDS, "The cat sat, the fox", "The, the fox", ["cat sat"]),
        (WORDS, "once THE Dog", "Once the dog", []),
        (WORDS, "the fox's red-hot ball", "the fox red ball", ["'s", "-hot"]),
        (WORDS, "the “fox” – said", 'the " fox" said', ["–"]),
        (WORDS, "Привет, the мир", ", the", ["Привет", "мир"]),
        (WORDS, " \t\u2003", "", []),
        (WORDS, "", "", []),
        (CHARS, "Привет, The ʒebra", ", The ebra", ["Привет", "ʒ"]),
        (CHARS, "TOM", "TOm", []),
        (SPELLING, "a bad fed", "a bad fed", []),
        (SPELLING, "a bäd fed", "a fed", ["bäd"]),
    ],
)
def test_what_is_known_is_read_and_the_rest_is_named(tokenizer, typed, read, skipped) -> None:
    match = match_prompt(tokenizer, typed)
    assert decode(tokenizer, match.ids) == match.text
    assert match.text.strip() == read
    assert match.skipped == skipped
    assert "".join(part for part, _ in match.parts) == typed
    assert all(part in match.note for part in skipped) and bool(match.note) >= bool(skipped)
    if match.text == typed:
        assert match.ids == tokenizer.encode(typed) and match.note == ""
        assert match_prompt(tokenizer, typed, "error") == match
    else:
        with pytest.raises(UserError, match="vocabulary lacks"):
            match_prompt(tokenizer, typed, "error")


def test_a_note_is_short_and_says_what_happens() -> None:
    assert "nothing is left" in match_prompt(WORDS, "Hello").note
    assert 'read "Dog" as "dog"' in match_prompt(WORDS, "the Dog").note
    note = match_prompt(WORDS, " fox ".join(f"zzz{n}" * 30 for n in range(1000))).note
    assert "and 992 more" in note and len(note) < 600 and "\n" not in note


def test_a_stored_setting_for_corpora_does_not_decide_about_prompts() -> None:
    for stored in ("error", "skip"):
        tokenizer = WordTokenizer(WORDS.pieces, stored)
        assert match_prompt(tokenizer, "the zebra").skipped == ["zebra"]
        with pytest.raises(UserError, match="zebra"):
            match_prompt(tokenizer, "the zebra", "error")
        assert tokenizer.unknown == stored


def test_byte_pairs_know_every_prompt() -> None:
    tokenizer = GPT2Tokenizer()
    match = match_prompt(tokenizer, "Привет 🦊", "error")
    assert match.ids == tokenizer.encode("Привет 🦊") and not match.note
