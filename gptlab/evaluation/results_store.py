"""evaluation.json and what stands beside it: figures of a model's suites, kept in its folder."""

import contextlib
import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gptlab.evaluation.context import EvalContext
from gptlab.evaluation.perplexity import DOCUMENTS_FILE, pack_document_scores
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError

Results = dict[str, Any]  # nested at most once


def flatten_results(figures: Results, prefix: str = "") -> dict[str, float]:
    """The numbers of nested figures, as `suite/part/name`; facts beside the suites are left out."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            found |= flatten_results(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and prefix:
            found[prefix + name] = value
    return found


def format_value(value: Any) -> str:
    """Whole numbers with their thousands, others to four places."""
    if isinstance(value, float):
        if value.is_integer() and abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


RESULTS_FILE = "evaluation.json"
EVENTS_SUFFIX = ".evaluation"  # ends the names of TensorBoard's files


def results_dir(path: Path) -> Path:
    """The folder that a model's evaluation belongs into: its run's, or its own."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def store_results(folder: Path, subject: EvalContext, figures: Results) -> None:
    """Adds to the suites that were run before on the same checkpoint and text; those of another
    make room. Raises UserError where nothing can be written."""
    told = stored_results(folder, subject) | figures
    files = {RESULTS_FILE: to_json_bytes(told)}
    if subject.scored:
        files[DOCUMENTS_FILE] = pack_document_scores(subject.scored, scoring_settings(subject))
    try:
        write_files_atomically(folder, files)
        if "perplexity" not in told:  # they are of another checkpoint
            (folder / DOCUMENTS_FILE).unlink(missing_ok=True)
        write_scalars(folder, subject.model.step, told)
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror}; the figures are above") from None


def stored_results(folder: Path, subject: EvalContext) -> dict[str, Any]:
    """What is kept of the same checkpoint and text, or just which these are."""
    corpus = subject.corpus.folder.name if subject.text else None
    facts = {"checkpoint": subject.model.path.name, "step": subject.model.step}
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        kept = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        same_text = corpus is None or kept.get("corpus") in (corpus, None)
        if same_text and {name: kept.get(name) for name in facts} == facts:
            return kept | {"corpus": corpus or kept.get("corpus")}
    return facts | {"corpus": corpus}


def scoring_settings(subject: EvalContext) -> str:
    """What must be alike for two models' losses to be compared."""
    config = subject.config
    how = {"stride": config.stride, "max_tokens": config.max_tokens}
    return json.dumps({"corpus": subject.corpus.folder.name} | how)


def write_scalars(folder: Path, step: int, told: dict[str, Any]) -> None:
    """In TensorBoard, in place of what was shown before."""
    for old in folder.glob(f"events.*{EVENTS_SUFFIX}"):
        old.unlink()
    with SummaryWriter(folder, filename_suffix=EVENTS_SUFFIX) as board:
        for name, value in flatten_results(told).items():
            board.add_scalar(f"evaluation/{name}", value, step)


def to_json_bytes(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()
