"""Line wrapping for samples side by side."""

import pytest

from gptlab.generation.terminal import LineWrapper, cell_width, pad

pytestmark = pytest.mark.fast


def wrap_letter_by_letter(text: str, width: int) -> list[str]:
    """Return a growing text's lines, after checking that none of them ever changes."""
    wrapper, before = LineWrapper(width), []
    for length in range(len(text) + 1):
        wrapper.update(text[:length], length == len(text))
        assert wrapper.lines[: len(before)] == before
        before = list(wrapper.lines)
    return before


def test_lines_contain_the_whole_text_and_never_change() -> None:
    text = "a word\nhello- - " + "x" * 95 + "  LONG" * 9 + "\n\nhttps://a.b/" + "c" * 40 + " end"
    for width in (1, 7, 30):
        lines = wrap_letter_by_letter(text, width)
        assert all(len(line) <= width for line in lines)
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_wide_characters_take_two_cells_and_combining_marks_none() -> None:
    text = "狐は森に住んでいました 🦊🦊🦊 e\u0301e\u0301e\u0301 plain words " * 4
    for width in (7, 12, 30):
        lines = wrap_letter_by_letter(text, width)
        cells = [sum(map(cell_width, line)) for line in lines]
        assert max(cells) <= width and max(map(len, lines)) <= 2 * width
        assert "".join("".join(lines).split()) == "".join(text.split())
        assert {sum(map(cell_width, pad(line, width))) for line in lines} == {width}
