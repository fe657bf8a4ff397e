"""docs/tour.md: its code runs from top to bottom, prints what stands below it, and ends at gptlab's
own; and its byte-pair encoding gives tiktoken's tokens, whatever the text."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import regex
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.data.tokenizer import GPT2Tokenizer
from tests.conftest import ROOT

TOUR = ROOT / "docs" / "tour.md"
HEADING_OR_FENCE = re.compile(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", re.S | re.M)


class Block(NamedTuple):
    section: str
    line: int  # of the file, where the code begins
    code: str
    shown: str  # what the file says that it prints


def read(text: str) -> list[Block]:
    """The blocks of Python, each with the text that stands right below it."""
    blocks: list[Block] = []
    section, end, last = "Beginning", 0, ""
    for match in HEADING_OR_FENCE.finditer(text):
        heading, language, content = match.groups()
        line = 2 + text.count("\n", 0, match.start())
        if heading:
            section = heading
        elif language == "python":
            blocks.append(Block(section, line, content, ""))
        else:
            between = text[end : match.start()].strip()
            assert (language, last, between) == ("text", "python", ""), f"line {line}: of no code"
            blocks[-1] = blocks[-1]._replace(shown=content)
        end, last = match.end(), language
    return blocks


BLOCKS = read(TOUR.read_text())
SECTIONS = list(dict.fromkeys(block.section for block in BLOCKS))


class Tour:
    """One Python session, into which blocks are typed as far as they are asked for."""

    def __init__(self, blocks: list[Block]):
        self.left = list(blocks)
        self.names: dict[str, Any] = {}
        self.fault: str | None = None

    def through(self, section: str) -> dict[str, Any]:
        """The names that are there at the section's end. Raises AssertionError for the first block
        that fails, or prints something else than stands there."""
        last = max(n for n, block in enumerate(BLOCKS) if block.section == section)
        while len(BLOCKS) - len(self.left) <= last:
            assert self.fault is None, f"not reached: {self.fault}"
            block = self.left.pop(0)
            self.fault = f"{TOUR.name}, line {block.line}, {block.section}"
            self.type(block)
            self.fault = None
        return self.names

    def type(self, block: Block) -> None:
        printed = io.StringIO()
        # Empty lines before the code, so that a traceback names the file's own lines.
        code = compile("\n" * (block.line - 1) + block.code, str(TOUR), "exec")
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.names)
        except Exception as error:
            raise AssertionError(f"{self.fault}: {error!r}") from error
        assert printed.getvalue() == block.shown, f"{self.fault}: prints otherwise"


@pytest.fixture(scope="module")
def tour() -> Iterator[Tour]:
    tour = Tour(BLOCKS)
    yield tour
    if "folder" in tour.names:  # where the tour has not come to its end
        tour.names["folder"].cleanup()


@pytest.mark.parametrize("section", SECTIONS)
def test_each_step_runs_and_prints_what_it_shows(tour: Tour, section: str) -> None:
    tour.through(section)


@pytest.mark.parametrize("section", SECTIONS[1:])
def test_each_step_ends_at_gptlabs_own(section: str) -> None:
    (*_, last) = (block for block in BLOCKS if block.section == section)
    statements = [line for line in last.code.splitlines() if "cleanup" not in line]
    assert statements[-1].lstrip().startswith("assert")


def test_the_tour_runs_on_what_a_student_has_installed() -> None:
    packages = set(re.findall(r"^(?:import|from) (\w+)", "".join(b.code for b in BLOCKS), re.M))
    standard = {"dataclasses", "itertools", "math", "pathlib", "re", "tempfile"}
    assert packages == standard | {"gptlab", "numpy", "regex", "torch"}


GPT2 = GPT2Tokenizer().bpe
CHARACTERS = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


@pytest.fixture(scope="module")
def encode(tour: Tour) -> Callable[[str], list[int]]:
    return tour.through("Subwords")["encode"]


def apart(kind: str) -> set[str]:
    """The characters that only one of `regex` and tiktoken's engine holds for this kind."""
    every_byte = {bytes([byte]): byte for byte in range(256)}
    # What matches is encoded, here byte by byte, and the rest is dropped.
    encoding = tiktoken.Encoding(
        "kind", pat_str=kind, mergeable_ranks=every_byte, special_tokens={}
    )
    theirs = bytes(encoding.encode_ordinary(CHARACTERS)).decode()
    return set(theirs) ^ set(regex.findall(kind, CHARACTERS))


@pytest.fixture(scope="module")
def differing() -> set[str]:
    """The characters that the two do not hold for the same."""
    return apart(r"\p{L}") | apart(r"\p{N}") | apart(r"\s")


def test_engines_differ_in_characters_alone_that_one_does_not_know(differing: set[str]) -> None:
    """Those that the older one's Unicode has not assigned."""
    assert differing <= apart(r"\p{Cn}")
    assert not any(character.isascii() for character in differing)


SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff"
WORDS = [
    *"<|endoftext|> <|endoftext <|fim_prefix|> [UNK] \0 's 'LL ’ll I'd've unfamiliar cats".split(),
    *"2024 １２ ½ x² _ ... https://a.b/c?d e\u0301 ﬁ ẞß שָׁלוֹם नमस्ते 你好，世界".split(),
    *"한국어 ありがとう 🦊 👩‍👩‍👧 🏳️‍🌈 🇪🇺 👍🏽 \U000e0001 \U0010ffff \ufffd".split(),
    *(" The", " --", "مرحبا بالعالم"),
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(SPACES, min_size=1, max_size=5),
        st.text("'" + "stmdlrve" + "LDS ", max_size=6),
        st.text("0123456789٣४ a", max_size=6),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS)
@example(text="")
@example(text=" " * 40 + "\n\n  end  \n")
@example(text="".join(WORDS))
@example(text=SPACES * 2 + "a" + SPACES)
def test_the_tours_encoding_is_tiktokens(encode, differing: set[str], text: str) -> None:
    text = "".join(character for character in text if character not in differing)
    assert encode(text) == GPT2.encode_ordinary(text)
