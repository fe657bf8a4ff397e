"""Do runs differ? Their losses on the same documents, document by document."""

from typing import Any

from gptlab.evaluation.document_scores import (
    DOCUMENTS_FILE,
    DocumentScores,
    paired_difference,
    read_document_scores,
)
from gptlab.report.load_runs import LoadedRun

FEWEST = 20  # documents: of fewer, a bootstrap takes chance for a difference


def against_the_best(found: list[LoadedRun]) -> list[list[Any]]:
    """A row for each evaluated run and split: how much worse it is than the best, and whether
    that can be told from chance. Empty where no two were evaluated in the same way."""
    texts: dict[Any, list[tuple[LoadedRun, DocumentScores]]] = {}
    for run in found:
        how, splits = read_document_scores(run.folder / DOCUMENTS_FILE)
        for split, documents in splits.items():
            same = (split, how, documents.tokens.tobytes())
            texts.setdefault(same, []).append((run, documents))
    return [
        row
        for (split, *_), several in texts.items()
        if len(several) > 1
        for row in rank(split, several)
    ]


def rank(split: str, several: list[tuple[LoadedRun, DocumentScores]]) -> list[list[Any]]:
    """The best first. Which one is the best is chance too, so an interval allows for all pairs
    (Bonferroni): in 95 % of such tables no interval is wrong."""
    several = sorted(several, key=lambda each: each[1].loss)
    (first, best), *rest = several
    pairs = len(several) * (len(several) - 1) / 2
    rows = [[f"{first.label}, {split}", "0", "", f"lowest: {best.loss:.4f} nats a token"]]
    for run, documents in rest:
        more, low, high = paired_difference(documents, best, confidence=1 - 0.05 / pairs)
        told = "differs" if low > 0 else "not to be told from the best"
        interval = f"{low:.4f} to {high:.4f}"
        if len(best.nats) < FEWEST:
            interval, told = "", f"too few documents to tell ({len(best.nats)})"
        rows.append([f"{run.label}, {split}", f"{more:.4f}", interval, told])
    return rows
