"""evaluation.json and what stands beside it: figures of a model's suites, kept in its folder."""

import contextlib
import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gptlab.errors import UserError
from gptlab.evaluation.figures import Figures, flat
from gptlab.evaluation.perplexity import DOCUMENTS, pack_documents
from gptlab.evaluation.subject import Subject
from gptlab.files import write

NAME = "evaluation.json"
EVENTS = ".evaluation"  # ends the names of TensorBoard's files


def home_of(path: Path) -> Path:
    """The folder that a model's evaluation belongs into: its run's, or its own."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def keep(folder: Path, subject: Subject, figures: Figures) -> None:
    """Adds to the suites that were run before on the same checkpoint and text; those of another
    make room. Raises UserError where nothing can be written."""
    told = before(folder, subject) | figures
    files = {NAME: as_json(told)}
    if subject.scored:
        files[DOCUMENTS] = pack_documents(subject.scored, how_scored(subject))
    try:
        write(folder, files)
        if "perplexity" not in told:  # they are of another checkpoint
            (folder / DOCUMENTS).unlink(missing_ok=True)
        show(folder, subject.model.step, told)
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror}; the figures are above") from None


def before(folder: Path, subject: Subject) -> dict[str, Any]:
    """What is kept of the same checkpoint and text, or just which these are."""
    corpus = subject.corpus.folder.name if subject.text else None
    facts = {"checkpoint": subject.model.path.name, "step": subject.model.step}
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        kept = json.loads((folder / NAME).read_text(encoding="utf-8"))
        same_text = corpus is None or kept.get("corpus") in (corpus, None)
        if same_text and {name: kept.get(name) for name in facts} == facts:
            return kept | {"corpus": corpus or kept.get("corpus")}
    return facts | {"corpus": corpus}


def how_scored(subject: Subject) -> str:
    """What must be alike for two models' losses to be compared."""
    config = subject.config
    how = {"stride": config.stride, "most_tokens": config.most_tokens}
    return json.dumps({"corpus": subject.corpus.folder.name} | how)


def show(folder: Path, step: int, told: dict[str, Any]) -> None:
    """In TensorBoard, in place of what was shown before."""
    for old in folder.glob(f"events.*{EVENTS}"):
        old.unlink()
    with SummaryWriter(folder, filename_suffix=EVENTS) as board:
        for name, value in flat(told).items():
            board.add_scalar(f"evaluation/{name}", value, step)


def as_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()
