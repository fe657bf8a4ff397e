"""The sampling study measures every preset and real text alike."""

from pathlib import Path

import pytest

from gptlab.report import sampling_study


def test_sampling_presets_are_compared_with_real_text(command, trained: Path, monkeypatch) -> None:
    arguments = [
        "gptlab.report.sampling_study",
        "latest",
        "--num-documents",
        "3",
        "--num-tokens",
        "20",
    ]
    result = command(*arguments)
    assert result.code == 0, result.err
    rows = {line[:13].strip(): line[13:].split() for line in result.out.splitlines()}
    assert {"real text", "top_p", "greedy", "beam"} < rows.keys()
    # An untrained model finds all text equally likely, and greedy text repeats itself.
    assert float(rows["real text"][0]) == pytest.approx(float(rows["plain"][0]), rel=0.1)
    assert float(rows["greedy"][0]) < float(rows["plain"][0])
    assert float(rows["greedy"][2]) < float(rows["plain"][2])
    weights: list[str] = []
    monkeypatch.setattr(sampling_study, "quantize_linears", lambda _, kind: weights.append(kind))
    assert command(*arguments, "--weight-dtype", "int8").code == 0 and weights == ["int8"]
    result = command(
        *arguments[:2], "--num-documents", "2", "--num-tokens", "1000000"
    )  # clipped to the window
    assert result.code in (0, 2) and "Traceback" not in result.err
    result = command(*arguments[:2], "--num-tokens", "0")
    assert result.code == 2 and result.err.count("\n") == 1
    result = command("gptlab.report.sampling_study", "nowhere")
    assert result.code == 2 and "no such run" in result.err


def test_repeats_and_distinct_ngrams_by_hand() -> None:
    words = ["a", "b", "c", "d", "a", "b", "c", "d", "e"]
    assert sampling_study.count_repeats(words) == (1, 6)  # a b c d
    assert sampling_study.distinct_share([sampling_study.ngrams(words, 2)]) == 5 / 8
    assert sampling_study.count_repeats([]) == (0, 0)
    assert sampling_study.distinct_share([sampling_study.ngrams([], 2)]) == 0
