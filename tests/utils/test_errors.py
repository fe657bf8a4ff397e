"""Expected failures end in one line; bugs keep their traceback."""

import errno

import pytest

from gptlab.utils.errors import UserError, exit_on_error, failure_line, is_gpu_out_of_memory

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a=b: wrong\n\x1b"), 2, "error: a=b: wrong\\n\\x1b\n"),
        (OSError(errno.ENOSPC, "x", "file"), 2, "error: file: No space left on device; fix the"),
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


def test_only_a_training_run_on_a_full_disk_can_be_resumed() -> None:
    full = OSError(errno.ENOSPC, "x", "file")
    assert "resume=latest" in str(failure_line(full, "train"))
    assert "resume" not in str(failure_line(full, "generate"))


def test_an_apple_gpu_without_memory_counts_as_one() -> None:
    error = RuntimeError("MPS backend out of memory (MPS allocated: 18.50 GiB, …)")
    assert is_gpu_out_of_memory(error)
