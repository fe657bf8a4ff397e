"""How well a model predicts a split: one deterministic pass, weighted by tokens."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gptlab.data.dataloader import Batch, ValidationBatches
from gptlab.data.sequences import IGNORE_INDEX, DocumentSequences
from gptlab.data.tokenizer import Tokenizer
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity, summed_cross_entropy
from gptlab.utils.device import autocast


@dataclass
class Score:
    """Sums over all scored targets."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.bytes)


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """For each id of the model's vocabulary the bytes it writes; padding ids write none."""
    lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    return torch.tensor(lengths + [0] * (vocab_size - len(lengths)))


@torch.inference_mode()
def score_split(net: GPT, batches: Iterable[Batch], token_bytes: Tensor, precision: str) -> Score:
    """Scores every target that counts, dropout off, on the device where the net is.

    `token_bytes` holds for each token id the bytes it writes; `precision` is Lightning's name.
    """
    device = next(net.parameters()).device
    total = Score(0.0, 0, 0)
    was_training = net.training
    net.eval()
    for batch in batches:
        target = batch["target"].to(device)
        with autocast(precision, device.type):
            logits = net(batch["input"].to(device))
        real = batch["target"][batch["target"] != IGNORE_INDEX]
        total.nats += float(summed_cross_entropy(logits, target))
        total.tokens += len(real)
        total.bytes += int(token_bytes.cpu()[real].sum())
    net.train(was_training)
    return total


@dataclass
class DocumentScores:
    """What each document of a split costs: one entry a document with targets that count."""

    nats: np.ndarray  # sums, float64
    tokens: np.ndarray
    bytes: np.ndarray
    batch_means: float  # the mean of the batches' mean losses, as many projects give it

    @property
    def loss(self) -> float:
        """Nats a token, each token weighted alike."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(float(self.nats.sum()), int(self.bytes.sum()))

    def standard_error(self, seed: int = 0, draws: int = 1000) -> float | None:
        """Of the loss, by a bootstrap over documents: how far it would stray on other ones.

        Documents are drawn with replacement as many as there are; tokens of a document hang
        together and are never drawn alone. None for a single document. Efron (1979).
        """
        if len(self.nats) < 2:
            return None
        return float(np.std(bootstrap(self.nats, self.tokens, seed, draws), ddof=1))


def bootstrap(sums: np.ndarray, tokens: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """What the sums over all tokens come to, a token, for so many draws of the documents."""
    random, count = np.random.default_rng(seed), len(sums)
    means = np.empty(draws)
    for number in range(draws):
        drawn = random.integers(count, size=count)
        means[number] = sums[drawn].sum() / tokens[drawn].sum()
    return means


def paired_difference(
    a: DocumentScores, b: DocumentScores, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """By how many nats a token `a` is worse than `b`, on the same documents, and its interval.

    Paired: what makes a document hard is hard for both, and drops out. The interval is the
    difference and so many of its standard errors, by a bootstrap, as the confidence takes of a
    normal distribution.
    """
    more = a.nats - b.nats
    mean = float(more.sum() / a.tokens.sum())
    error = float(np.std(bootstrap(more, a.tokens, seed, 1000), ddof=1))
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return mean, mean - margin, mean + margin


DOCUMENTS_FILE = "evaluation.npz"  # in a run's folder: each split's documents, as they were scored


def pack_document_scores(splits: dict[str, DocumentScores], how: str) -> bytes:
    """A file of them; `how` they were scored must be alike for two to be compared."""
    arrays: dict[str, Any] = {"how": np.array(how)}
    for split, documents in splits.items():
        arrays |= {f"{split} {name}": value for name, value in vars(documents).items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_document_scores(path: Path) -> tuple[str, dict[str, DocumentScores]]:
    """How they were scored, and the splits; none where there is no file, or a damaged one."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with np.load(path) as arrays:
            how = str(arrays["how"])
            for key in arrays.files:
                if key != "how":
                    split, name = key.split(" ")
                    found.setdefault(split, {})[name] = arrays[key]
        for each in found.values():
            each["batch_means"] = float(each["batch_means"])
        return how, {split: DocumentScores(**each) for split, each in found.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
        return "", {}


@torch.inference_mode()
def score_documents(
    net: GPT, batches: ValidationBatches, ends: np.ndarray, token_bytes: Tensor, precision: str
) -> DocumentScores:
    """Scores a whole split, document by document; arguments as of `score`, and the documents'
    ends in the stream."""
    device = next(net.parameters()).device
    nats, ids, rows, means = [], [], [], []
    was_training = net.training
    net.eval()
    for batch in tqdm(batches, desc="perplexity", unit=" batches", disable=None, leave=False):
        target_BxT = batch["target"]
        with autocast(precision, device.type):
            logits = net(batch["input"].to(device))
        losses = F.cross_entropy(
            logits.float().flatten(0, 1),
            target_BxT.to(device).flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="none",
        )
        real_BxT = target_BxT != IGNORE_INDEX
        nats.append(losses.view(target_BxT.shape).cpu()[real_BxT].double().numpy())
        ids.append(target_BxT[real_BxT].numpy())
        rows.append(real_BxT.sum(dim=1).numpy())
        means.append(nats[-1].mean())
    net.train(was_training)
    owner = owning_document(batches, np.concatenate(rows), ends)
    size = token_bytes.cpu().numpy()[np.concatenate(ids)]
    sums = [
        np.bincount(owner, weights) for weights in (np.concatenate(nats), np.ones(len(owner)), size)
    ]
    scored = sums[1] > 0
    return DocumentScores(*(values[scored] for values in sums), float(np.mean(means)))


def owning_document(batches: ValidationBatches, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each scored target, in the order of scoring, the number of its document; `rows` are the
    targets of each row."""
    if isinstance(batches.windows, DocumentSequences):
        return np.repeat(np.arange(len(rows)), rows)
    places = 1 + np.arange(rows.sum())  # a stream's first token is nobody's target
    return np.searchsorted(ends, places, side="right")
