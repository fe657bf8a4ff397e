"""Match prompts as people type them with a vocabulary, and name what it lacks."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer

MAX_NAMED = 8  # parts that a note names
MAX_LENGTH = 40  # characters of each
TYPOGRAPHIC = dict(zip("‘’‚“”„–—\u00a0\t", "'''\"\"\"--  ", strict=True))  # and as on a keyboard


@dataclass(frozen=True)
class PromptMatch:
    """A prompt in parts, as typed and as the model reads them."""

    ids: list[int]
    parts: list[tuple[str, str]]  # (typed, read); read is empty where the vocabulary lacks it

    @property
    def text(self) -> str:
        """The text that the model reads."""
        return "".join(read for _, read in self.parts)

    @property
    def skipped(self) -> list[str]:
        """The parts that the vocabulary lacks, without white space."""
        typed = (typed.strip() for typed, read in self.parts if not read)
        return [part for part in dict.fromkeys(typed) if part]

    @property
    def note(self) -> str:
        """One line that names what was skipped or read otherwise; empty if nothing was."""
        notes = []
        if self.skipped:
            notes.append(f"skipped, because the model never saw it: {name_some(self.skipped)}")
        pairs = dict.fromkeys((typed.strip(), read.strip()) for typed, read in self.parts if read)
        letters = re.compile(r"\w")  # respelled punctuation is not worth a line
        if other := [f'"{a}" as "{b}"' for a, b in pairs if a != b and letters.search(a)]:
            notes.append(f"read {', '.join(other[:MAX_NAMED])}")
        if notes and not self.ids:
            notes.append("nothing is left, so the model starts by itself")
        return "; ".join(notes)


def name_some(parts: list[str]) -> str:
    """Quote the first few parts, and count the others."""
    cut = [part if len(part) <= MAX_LENGTH else f"{part[:MAX_LENGTH]}…" for part in parts]
    more = f" and {len(parts) - MAX_NAMED:,} more" if len(parts) > MAX_NAMED else ""
    return ", ".join(f'"{part}"' for part in cut[:MAX_NAMED]) + more


def match_prompt(tokenizer: Tokenizer, text: str, unknown: str = "skip") -> PromptMatch:
    """Encode a prompt; a word that the vocabulary lacks is read in a known spelling, or skipped.

    Raises UserError for such a word if `unknown` is `error`.
    """
    if not isinstance(tokenizer, VocabularyTokenizer):
        ids = tokenizer.encode(text)
        return PromptMatch(ids, [(text, text)] if text else [])
    split = tokenizer.split(plain_punctuation(text, tokenizer))
    pieces = [part for piece in split for part in split_compound(piece, tokenizer.ids)]
    read = [known_spelling(piece, tokenizer.ids) for piece in pieces]
    ends = [0, *accumulate(map(len, pieces))]
    typed = [text[start:end] for start, end in pairwise(ends)]
    if unknown == "error" and read != typed:
        raise tokenizer.unknown_pieces_error(tokenizer.split(text))
    ids = [tokenizer.ids[piece] for piece in read if piece]
    return PromptMatch(ids, merge_parts(zip(typed, read, strict=True)))


def plain_punctuation(text: str, tokenizer: VocabularyTokenizer) -> str:
    """Replace curly quotes and the like, which phones type, if no piece of the vocabulary has them.

    The text keeps its length.
    """
    if not any(character in text for character in TYPOGRAPHIC):
        return text
    known = set().union(*tokenizer.pieces)
    return text.translate({ord(c): p for c, p in TYPOGRAPHIC.items() if c not in known})


def split_compound(piece: str, vocabulary: dict[str, int]) -> list[str]:
    """Split an unknown "dog's" after its first word, if that is known."""
    head = re.match(r" ?\w+", piece)
    if piece in vocabulary or not head or not known_spelling(head[0], vocabulary):
        return [piece]
    return [head[0], *filter(None, [piece[head.end() :]])]


def known_spelling(piece: str, vocabulary: dict[str, int]) -> str:
    """Return the piece, or its most similar spelling in the vocabulary; empty if there is none."""
    if piece in vocabulary:
        return piece
    return next((each for each in spellings(piece) if each in vocabulary), "")


def spellings(piece: str) -> Iterator[str]:
    """Yield other spellings of a piece: with or without a space before it, in another case."""
    word = piece.removeprefix(" ")
    space = piece[: len(piece) - len(word)]
    for spelling in dict.fromkeys((word, word.lower(), word.capitalize())):
        yield space + spelling
        yield spelling if space else f" {spelling}"


def merge_parts(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join neighboring parts that are read as typed, that are skipped, or that are respelled."""
    merged: list[tuple[str, str]] = []
    kinds: list[str] = []
    for typed, read in parts:
        kind = "same" if typed == read else "respelled" if read else "skipped"
        if kinds and kinds[-1] == kind and (kind != "respelled" or len(typed) == 1):
            last_typed, last_read = merged[-1]
            merged[-1] = last_typed + typed, last_read + read
        else:
            merged.append((typed, read))
            kinds.append(kind)
    return merged
