"""docs/tour.md: its code runs, prints what the page shows, and gives gptlab's own results; its
byte-pair encoding equals tiktoken's."""

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
    line: int  # of the file, where the code starts
    code: str
    expected_output: str


def read_blocks(text: str) -> list[Block]:
    """Read the Python blocks, each with the text block right after it."""
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
            assert (language, last, between) == ("text", "python", ""), (
                f"line {line}: output without code"
            )
            blocks[-1] = blocks[-1]._replace(expected_output=content)
        end, last = match.end(), language
    return blocks


BLOCKS = read_blocks(TOUR.read_text(encoding="utf-8"))
SECTIONS = list(dict.fromkeys(block.section for block in BLOCKS))


class Tour:
    """A Python session that runs the blocks up to a section."""

    def __init__(self, blocks: list[Block]):
        self.remaining = list(blocks)
        self.names: dict[str, Any] = {}
        self.failed: str | None = None

    def run_through(self, section: str) -> dict[str, Any]:
        """Run all blocks up to the end of a section and return the session's names.

        Raises AssertionError if a block fails or prints something else than the page shows.
        """
        last = max(n for n, block in enumerate(BLOCKS) if block.section == section)
        while len(BLOCKS) - len(self.remaining) <= last:
            assert self.failed is None, f"not reached: {self.failed}"
            block = self.remaining.pop(0)
            self.failed = f"{TOUR.name}, line {block.line}, {block.section}"
            self.run_block(block)
            self.failed = None
        return self.names

    def run_block(self, block: Block) -> None:
        printed = io.StringIO()
        # Empty lines before the code, so that a traceback shows the line numbers of the file.
        code = compile("\n" * (block.line - 1) + block.code, str(TOUR), "exec")
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.names)
        except Exception as error:
            raise AssertionError(f"{self.failed}: {error!r}") from error
        assert printed.getvalue() == block.expected_output, f"{self.failed}: other output"


@pytest.fixture(scope="module")
def tour() -> Iterator[Tour]:
    tour = Tour(BLOCKS)
    yield tour
    if "folder" in tour.names:  # if the tour did not reach its end
        tour.names["folder"].cleanup()


@pytest.mark.parametrize("section", SECTIONS)
def test_each_step_prints_what_the_page_shows(tour: Tour, section: str) -> None:
    tour.run_through(section)


@pytest.mark.parametrize("section", SECTIONS[1:])
def test_each_step_ends_with_a_comparison_to_gptlab(section: str) -> None:
    (*_, last) = (block for block in BLOCKS if block.section == section)
    statements = [line for line in last.code.splitlines() if "cleanup" not in line]
    assert statements[-1].lstrip().startswith("assert")


def test_the_tour_imports_only_installed_packages() -> None:
    packages = set(re.findall(r"^(?:import|from) (\w+)", "".join(b.code for b in BLOCKS), re.M))
    standard = {"dataclasses", "itertools", "math", "pathlib", "re", "tempfile"}
    assert packages == standard | {"gptlab", "numpy", "regex", "torch"}


GPT2 = GPT2Tokenizer().bpe
CHARACTERS = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)


@pytest.fixture(scope="module")
def encode(tour: Tour) -> Callable[[str], list[int]]:
    return tour.run_through("Subwords")["encode"]


def disputed_characters(kind: str) -> set[str]:
    """The characters that only one of `regex` and tiktoken's engine counts as this kind."""
    every_byte = {bytes([byte]): byte for byte in range(256)}
    # Encodes what matches, byte by byte, and drops the rest.
    encoding = tiktoken.Encoding(
        "kind", pat_str=kind, mergeable_ranks=every_byte, special_tokens={}
    )
    by_tiktoken = bytes(encoding.encode_ordinary(CHARACTERS)).decode()
    return set(by_tiktoken) ^ set(regex.findall(kind, CHARACTERS))


@pytest.fixture(scope="module")
def differing() -> set[str]:
    """The characters on which the two engines disagree."""
    return (
        disputed_characters(r"\p{L}") | disputed_characters(r"\p{N}") | disputed_characters(r"\s")
    )


def test_engines_differ_only_in_characters_that_one_of_them_does_not_know(
    differing: set[str],
) -> None:
    """These are unassigned in the older version of Unicode."""
    assert differing <= disputed_characters(r"\p{Cn}")
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
def test_the_tours_encoding_equals_tiktoken(encode, differing: set[str], text: str) -> None:
    text = "".join(character for character in text if character not in differing)
    assert encode(text) == GPT2.encode_ordinary(text)
