"""Score a split document by document, for standard errors and paired comparisons."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.dataloader import ValidationBatches
from gptlab.data.sequences import IGNORE_INDEX, DocumentSequences
from gptlab.evaluation.bootstrap import bootstrap_means
from gptlab.evaluation.inference import iterate_logits, load_batches
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity

DOCUMENTS_FILE = "evaluation.npz"  # in a run folder: the document scores of each split


@dataclass
class DocumentScores:
    """Sums over the scored targets of each document; documents without any are left out."""

    nats: np.ndarray  # float64
    tokens: np.ndarray
    bytes: np.ndarray
    batch_means: float  # mean over batches of their mean losses, as many projects report

    @property
    def loss(self) -> float:
        """Nats per token; every token has the same weight."""
        return float(self.nats.sum() / self.tokens.sum())

    def standard_error(self) -> float | None:
        """Estimate the standard error of the loss; returns None for a single document."""
        if len(self.nats) < 2:
            return None
        return float(np.std(bootstrap_means(self.nats, self.tokens), ddof=1))

    def metrics(self) -> dict[str, float | None]:
        return {
            "loss": self.loss,
            "standard_error": self.standard_error(),
            "perplexity": perplexity(self.loss),
            "bits_per_byte": bits_per_byte(float(self.nats.sum()), int(self.bytes.sum())),
            "tokens": int(self.tokens.sum()),
            "documents": len(self.tokens),
            "perplexity_of_batch_means": perplexity(self.batch_means),
        }


def score_documents(
    net: GPT, batches: ValidationBatches, ends: np.ndarray, byte_counts: Tensor, precision: str
) -> DocumentScores:
    """Score each document; `ends` index the token stream, other arguments as in `score_split`."""
    nats, ids, rows, means = [], [], [], []
    every_batch = load_batches(batches, progress="perplexity")
    for logits_BxTxV, target_BxT, cpu_target_BxT in iterate_logits(net, every_batch, precision):
        logits_NxV, target_N = logits_BxTxV.float().flatten(0, 1), target_BxT.flatten()
        losses = F.cross_entropy(logits_NxV, target_N, ignore_index=IGNORE_INDEX, reduction="none")
        real_BxT = cpu_target_BxT != IGNORE_INDEX
        nats.append(losses.view(real_BxT.shape).cpu()[real_BxT].double().numpy())
        ids.append(cpu_target_BxT[real_BxT].numpy())
        rows.append(real_BxT.sum(dim=1).numpy())
        means.append(nats[-1].mean())
    document = document_numbers(batches, np.concatenate(rows), ends)
    tokens = np.bincount(document)
    scored = tokens > 0
    return DocumentScores(
        nats=np.bincount(document, np.concatenate(nats))[scored],
        tokens=tokens[scored],
        bytes=np.bincount(document, byte_counts.cpu().numpy()[np.concatenate(ids)])[scored],
        batch_means=float(np.mean(means)),
    )


def document_numbers(batches: ValidationBatches, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Number the document of each scored target, in scoring order; `rows` counts the targets of
    each sequence."""
    if isinstance(batches.sequences, DocumentSequences):
        return np.repeat(np.arange(len(rows)), rows)
    places = 1 + np.arange(rows.sum())  # the first token of a stream is never a target
    return np.searchsorted(ends, places, side="right")


def pack_document_scores(splits: dict[str, DocumentScores], settings: str) -> bytes:
    """Encode as an .npz file; only files with equal `settings` are comparable."""
    arrays: dict[str, Any] = {"settings": np.array(settings)}
    for split, scores in splits.items():
        arrays |= {f"{split} {name}": value for name, value in vars(scores).items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_document_scores(path: Path) -> tuple[str, dict[str, DocumentScores]]:
    """Read the settings and the scores of each split; empty if the file is missing or damaged."""
    fields: dict[str, dict[str, Any]] = {}
    try:
        with np.load(path) as arrays:
            settings = str(arrays["settings"])
            for key in arrays.files:
                if key != "settings":
                    split, name = key.split(" ")
                    fields.setdefault(split, {})[name] = arrays[key]
        for each in fields.values():
            each["batch_means"] = float(each["batch_means"])
        return settings, {split: DocumentScores(**each) for split, each in fields.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
        return "", {}
