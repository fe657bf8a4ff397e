"""Expected failures end in one line; bugs keep their traceback."""

import errno

import pytest

from gptlab.utils.errors import UserError, did_you_mean, exit_on_error, resolve_choice

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


def test_invalid_choices_name_the_choices_and_the_nearest() -> None:
    table = {"cosine": 1, "constant": 2}
    assert resolve_choice("optim.schedule", "cosine", table) == 1
    with pytest.raises(UserError) as error:
        resolve_choice("optim.schedule", "cosin", table)
    assert str(error.value) == (
        "optim.schedule=cosin: invalid choice; choose from cosine, constant; did you mean 'cosine'?"
    )
    assert did_you_mean("xyz", table) == ""
