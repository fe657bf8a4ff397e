"""Expected failures end in one line; bugs keep their traceback."""

import errno

import pytest

from gptlab.utils.errors import UserError, exit_on_error

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a=b: wrong\n\x1b"), 2, "error: a=b: wrong\\n\\x1b\n"),
        (OSError(errno.ENOSPC, "x", "file"), 2, "error: file: No space left on device; the last"),
        (MemoryError(), 2, "error: out of memory (MemoryError); use a smaller num_samples"),
        (RuntimeError("can't allocate memory: 9 GB\nmore"), 2, "error: out of memory (can't"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_expected_failures_are_one_line_and_an_exit_code(error, code, line, capsys) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("generate"):
        raise error
    printed = capsys.readouterr().err
    assert end.value.code == code and printed.startswith(line)
    assert printed.strip().count("\n") == 0


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error("train"):
        print(1 / 0)
