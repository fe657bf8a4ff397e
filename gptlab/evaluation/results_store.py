"""`evaluation.json` holds the results of one checkpoint on one corpus; TensorBoard shows them."""

import contextlib
import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gptlab.evaluation.document_scores import DOCUMENTS_FILE, pack_document_scores
from gptlab.evaluation.eval_context import EvalContext, Results
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError

RESULTS_FILE = "evaluation.json"
EVENTS_SUFFIX = ".evaluation"  # ends the names of TensorBoard's files


def format_value(value: Any) -> str:
    """Format whole numbers with thousands separators, others to four decimals."""
    if isinstance(value, float):
        if value.is_integer() and abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def format_results(suite: str, results: Results) -> list[str]:
    """Format a table: a line for each metric, a column for each name before the first slash."""
    columns = list(dict.fromkeys(name.partition("/")[0] for name in results))
    metrics = list(dict.fromkeys(name.partition("/")[2] for name in results))
    rows = [[suite, *columns]]
    for metric in metrics:
        values = (results.get(f"{column}/{metric}") for column in columns)
        rows.append([f"  {metric}", *map(format_value, values)])
    widths = [28, *(max(14, len(column) + 2) for column in columns)]
    return ["".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def results_dir(path: Path) -> Path:
    """Find the folder for a model's results: its run folder, or its own."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def store_results(folder: Path, model: LoadedModel, context: EvalContext, results: Results) -> None:
    """Add results to earlier ones of the same checkpoint and corpus; replace results of another.

    Raises UserError if a file cannot be written.
    """
    metadata, earlier = read_results(folder, model, context)
    merged = earlier | results
    files = {RESULTS_FILE: to_json_bytes(metadata | {"results": merged})}
    if context.document_scores:
        # The scores of two models are comparable only if these are equal.
        scoring = {"stride": context.stride, "max_tokens": context.max_tokens}
        settings = json.dumps({"corpus": context.corpus.folder.name} | scoring)
        files[DOCUMENTS_FILE] = pack_document_scores(context.document_scores, settings)
    try:
        write_files_atomically(folder, files)
        if not any(name.endswith("/documents") for name in merged):  # scores of another checkpoint
            (folder / DOCUMENTS_FILE).unlink(missing_ok=True)
        write_scalars(folder, model.step, merged)
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror}; the results are printed above") from None


def read_results(
    folder: Path, model: LoadedModel, context: EvalContext
) -> tuple[dict[str, Any], Results]:
    """Return the checkpoint and corpus by name, and the stored results of this pair."""
    corpus = context.corpus.folder.name if context.dataset else None
    metadata: dict[str, Any] = {"checkpoint": model.path.name, "step": model.step}
    with contextlib.suppress(OSError, ValueError, LookupError, AttributeError, RecursionError):
        stored = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        same_corpus = corpus is None or stored.get("corpus") in (corpus, None)
        if same_corpus and {name: stored.get(name) for name in metadata} == metadata:
            metadata["corpus"] = corpus or stored.get("corpus")
            numbers = stored["results"].items()
            return metadata, {name: n for name, n in numbers if isinstance(n, int | float)}
    return metadata | {"corpus": corpus}, {}


def write_scalars(folder: Path, step: int, results: Results) -> None:
    """Replace the results that TensorBoard shows."""
    for old in folder.glob(f"events.*{EVENTS_SUFFIX}"):
        old.unlink()
    with SummaryWriter(folder, filename_suffix=EVENTS_SUFFIX) as writer:
        for name, value in results.items():
            writer.add_scalar(f"evaluation/{name}", value, step)


def to_json_bytes(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()
