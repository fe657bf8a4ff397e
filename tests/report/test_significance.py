"""Comparing runs document by document: real differences are found, chance is not."""

from pathlib import Path

import numpy as np
import pytest

from gptlab.evaluation.bootstrap import paired_difference
from gptlab.evaluation.document_scores import (
    DocumentScores,
    pack_document_scores,
    read_document_scores,
)
from gptlab.report.load_runs import LoadedRun
from gptlab.report.significance import compare_to_best


def document_scores(count: int, worse: float = 0, seed: int = 1) -> DocumentScores:
    """Scores of documents whose difficulty all models share, plus each model's noise."""
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    tokens = shared.integers(50, 150, size=count)
    nats = (shared.normal(3, 1, size=count) + worse) * tokens + own.normal(0, 5, count)
    return DocumentScores(nats, tokens, tokens, 3.0)


def comparison_rows(tmp_path: Path, *scored: tuple[str, DocumentScores]) -> list[list[str]]:
    """Compare runs from pairs of (scoring settings, scores)."""
    runs = []
    for number, (settings, scores) in enumerate(scored):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "evaluation.npz").write_bytes(pack_document_scores({"valid": scores}, settings))
        assert read_document_scores(folder / "evaluation.npz")[0] == settings
        runs.append(LoadedRun(folder, {}, {}, {}, {}, label=f"run {number}"))
    return compare_to_best(runs)


@pytest.mark.fast
def test_paired_difference_separates_better_models_from_equal_ones() -> None:
    better, same, worse = (
        document_scores(400),
        document_scores(400, seed=2),
        document_scores(400, 0.05, seed=3),
    )
    difference, low, high = paired_difference(worse, better)
    assert 0 < low < difference < high and difference == pytest.approx(0.05, abs=0.02)
    assert worse.standard_error() > 0.04  # unpaired scores could not show it
    assert paired_difference(worse, better, confidence=0.9999)[1] < low
    _, low, high = paired_difference(same, better)
    assert low < 0 < high


def test_only_runs_scored_in_the_same_way_are_compared(tmp_path: Path) -> None:
    scored = [
        ("a", document_scores(400, 0.05, seed=3)),
        ("a", document_scores(400)),
        ("b", document_scores(400)),
    ]
    first, second = comparison_rows(tmp_path, *scored)
    assert first[0] == "run 1, valid" and second[0] == "run 0, valid"
    assert second[-1] == "differs"


def test_equal_models_are_rarely_called_different(tmp_path: Path) -> None:
    few = [("a", document_scores(19, seed=seed)) for seed in range(2)]
    assert "too few documents" in comparison_rows(tmp_path, *few)[1][-1]
    wrong = 0
    for trial in range(20):  # ten equal models each
        folder = tmp_path / f"trial {trial}"
        folder.mkdir()
        equal = [("a", document_scores(60, seed=10 * trial + seed)) for seed in range(10)]
        wrong += any(row[-1] == "differs" for row in comparison_rows(folder, *equal))
    assert wrong <= 3  # 5 % are expected


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"no archive"])
def test_damaged_document_scores_are_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evaluation.npz").write_bytes(content)
    assert read_document_scores(tmp_path / "evaluation.npz") == ("", {})
    assert read_document_scores(tmp_path / "none.npz") == ("", {})
