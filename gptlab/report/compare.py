"""Do two runs differ? Their losses on the same documents, document by document."""

from typing import Any

import numpy as np

from gptlab.evaluation.perplexity import DOCUMENTS, difference, read_documents
from gptlab.report.gather import Run


def against_the_best(found: list[Run]) -> list[list[Any]]:
    """A row for each evaluated run and split: how much worse it is than the best, and whether
    that can be told from chance. Empty where fewer than two were evaluated on one text."""
    read = [(run, read_documents(run.folder / DOCUMENTS)) for run in found]
    rows = []
    for split in dict.fromkeys(split for _, documents in read for split in documents):
        texts: dict[Any, list[tuple[Run, Any]]] = {}
        for run, documents in read:
            if split in documents:
                tokens = documents[split].tokens
                text = (run.evaluation.get("corpus"), len(tokens), int(tokens.sum()))
                texts.setdefault(text, []).append((run, documents[split]))
        for several in texts.values():
            rows += rank(split, several) if len(several) > 1 else []
    return rows


def rank(split: str, several: list[tuple[Run, Any]]) -> list[list[Any]]:
    several = sorted(several, key=lambda each: each[1].loss)
    (_, best), *rest = several
    rows = [[f"{several[0][0].label}, {split}", "0", "", f"lowest: {best.loss:.4f} nats a token"]]
    for run, documents in rest:
        if not np.array_equal(documents.tokens, best.tokens):
            rows.append([f"{run.label}, {split}", "–", "", "scored in other windows"])
            continue
        more, low, high = difference(documents, best)
        told = "differs" if low > 0 else "not to be told from the best"
        rows.append([f"{run.label}, {split}", f"{more:.4f}", f"{low:.4f} to {high:.4f}", told])
    return rows
