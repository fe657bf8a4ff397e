"""Test whether the losses of runs differ, using their losses on the same documents."""

from gptlab.evaluation import bootstrap, document_scores
from gptlab.evaluation.document_scores import DocumentScores
from gptlab.report.load_runs import LoadedRun

MIN_DOCUMENTS = 20  # a smaller bootstrap gives false positives


def compare_to_best(runs: list[LoadedRun]) -> list[list[str]]:
    """Return a table row per evaluated run and split: its loss above the best run's, and whether
    the difference is significant.

    Only runs that were scored on the same documents with the same settings are compared.
    """
    groups: dict[tuple[str, str, bytes], list[tuple[LoadedRun, DocumentScores]]] = {}
    for run in runs:
        file = run.folder / document_scores.DOCUMENTS_FILE
        settings, splits = document_scores.read_document_scores(file)
        for split, scores in splits.items():
            key = (split, settings, scores.tokens.tobytes())
            groups.setdefault(key, []).append((run, scores))
    return [
        row
        for (split, *_), group in groups.items()
        if len(group) > 1
        for row in rank_group(split, group)
    ]


def rank_group(split: str, group: list[tuple[LoadedRun, DocumentScores]]) -> list[list[str]]:
    """Rank the runs of one group, the best first, with 95 % confidence intervals.

    Bonferroni-corrected over all pairs, because the best run was selected by its loss.
    """
    group = sorted(group, key=lambda pair: pair[1].loss)
    (first, best), *others = group
    pairs = len(group) * (len(group) - 1) / 2
    rows = [[f"{first.label}, {split}", "0", "", f"lowest: {best.loss:.4f} nats per token"]]
    for run, scores in others:
        confidence = 1 - 0.05 / pairs
        difference, low, high = bootstrap.paired_difference(scores, best, confidence)
        interval = f"{low:.4f} to {high:.4f}"
        verdict = "differs" if low > 0 else "not significantly different from the best"
        if len(best.nats) < MIN_DOCUMENTS:
            interval, verdict = "", f"too few documents ({len(best.nats)}) for a test"
        rows.append([f"{run.label}, {split}", f"{difference:.4f}", interval, verdict])
    return rows
