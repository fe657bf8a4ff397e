"""Cut a corpus into sequences, the rows of a batch, in an order that has no state.

The order is a pure function of (seed, global index), not of a generator's history, so a run can
start at any index and see what an uninterrupted run sees there. A batch is one indexed read from
the memory map.

In shapes, B is the sequences of a batch and T the input tokens of a sequence.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.utils.errors import UserError, resolve_choice
from gptlab.utils.hashing import splitmix64

IGNORE_INDEX = -100  # a target that the loss ignores, as in torch.nn.functional.cross_entropy


class Sequences(Protocol):
    """Sequences cut from one split: `len` of them are an epoch, and indices go on after it."""

    length: int  # T, input tokens of a sequence

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int): ...

    def __len__(self) -> int: ...

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target, each (B, T) int64, of the sequences with these global indices."""

    def count_targets(self, indices_B: np.ndarray) -> int:
        """The targets of these sequences that the loss counts."""


def feistel_permute(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Map global indices to 0 … size - 1: each epoch is a different permutation.

    A Feistel network over the bits of the index, repeated until the result is below the size: a
    permutation of any size without a table. Black and Rogaway (2002), "Ciphers with Arbitrary
    Finite Domains".
    """
    epochs, values = np.divmod(indices.astype(np.uint64), np.uint64(size))
    half = np.uint64(max(1, -(-max(size - 1, 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = splitmix64(splitmix64(np.full_like(epochs, seed)) + epochs)

    def scramble(x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for turn in range(6):
            left, right = right, left ^ (splitmix64(right ^ keys ^ np.uint64(turn << 58)) & mask)
        return (left << half) | right

    values = scramble(values, keys)
    while (outside := values >= size).any():
        values[outside] = scramble(values[outside], keys[outside])
    return values.astype(np.int64)


class SlidingSequences:
    """Windows that start at every `stride` tokens of the stream, as far as they fit."""

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        self.tokens = corpus.tokens(split)
        self.length = min((config.row_length or context + 1) - 1, len(self.tokens) - 1)
        self.stride = config.stride or self.length
        self.seed = seed

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def starts(self, indices_B: np.ndarray) -> np.ndarray:
        """The first token of each window, (B,)."""
        return feistel_permute(indices_B, len(self), self.seed) * self.stride

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_windows(self.starts(indices_B))

    def read_windows(self, starts_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target of the windows that start at these tokens."""
        positions = starts_B[:, None] + np.arange(self.length + 1)
        windows = torch.from_numpy(self.tokens[positions].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]

    def count_targets(self, indices_B: np.ndarray) -> int:
        return len(indices_B) * self.length


class RandomSequences(SlidingSequences):
    """Windows that start anywhere; an epoch has as many as would cover the stream once."""

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // self.length)

    def starts(self, indices_B: np.ndarray) -> np.ndarray:
        seeds = splitmix64(np.full(len(indices_B), self.seed, dtype=np.uint64))
        hashes = splitmix64(seeds + indices_B.astype(np.uint64))
        return (hashes / 2.0**64 * (len(self.tokens) - self.length)).astype(np.int64)


class DocumentSequences:
    """One document per sequence, cut or padded with end-of-text to the same length.

    The loss ignores padding, but not the first end-of-text, which teaches the model to stop
    (`learn_eot`). With `eot_first` a sequence starts with end-of-text, so that the
    document's first token is predicted too.
    """

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        self.tokens = corpus.tokens(split)
        self.document_ends = corpus.document_ends(split)
        self.document_starts = np.concatenate(([0], self.document_ends[:-1]))
        self.length = (config.row_length or context + 1) - 1
        self.eot_prefix = int(config.eot_first)  # end-of-text tokens before the document: 0 or 1
        self.learn_eot = config.learn_eot
        self.prompt_targets = np.broadcast_to(0, len(self))  # ignored first targets, by document
        self.eot = corpus.tokenizer.eot
        self.seed = seed

    def __len__(self) -> int:
        return len(self.document_ends)

    def shuffled_documents(self, indices_B: np.ndarray) -> np.ndarray:
        """The document of each global index, (B,)."""
        return feistel_permute(indices_B, len(self), self.seed)

    def target_counts(self, documents_B: np.ndarray) -> np.ndarray:
        """The targets that the loss counts in each document, (B,)."""
        tokens_B = self.document_ends[documents_B] - self.document_starts[documents_B]
        tokens_B = tokens_B - (not self.learn_eot) - (1 - self.eot_prefix)
        return (tokens_B.clip(0, self.length) - self.prompt_targets[documents_B]).clip(0)

    def count_targets(self, indices_B: np.ndarray) -> int:
        return int(self.target_counts(self.shuffled_documents(indices_B)).sum())

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_documents(self.shuffled_documents(indices_B))

    def read_documents(self, documents_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target of these documents, in this order."""
        starts_Bx1 = self.document_starts[documents_B][:, None]
        ends_Bx1 = self.document_ends[documents_B][:, None]
        width = self.batch_length(documents_B)
        positions = starts_Bx1 + np.arange(-self.eot_prefix, width + 1 - self.eot_prefix)
        inside = (positions >= starts_Bx1) & (positions < ends_Bx1)
        sequences = self.tokens[positions.clip(0, len(self.tokens) - 1)].astype(np.int64)
        sequences[~inside] = self.eot
        targets = self.make_targets(sequences, documents_B)
        return torch.from_numpy(sequences[:, :-1]), torch.from_numpy(targets)

    def batch_length(self, documents_B: np.ndarray) -> int:
        """The input tokens of a sequence in a batch of these documents."""
        return self.length

    def make_targets(self, sequences_BxT1: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        targets = sequences_BxT1[:, 1:].copy()
        first_Bx1 = self.prompt_targets[documents_B][:, None]
        end_Bx1 = first_Bx1 + self.target_counts(documents_B)[:, None]
        positions = np.arange(targets.shape[1])
        targets[(positions < first_Bx1) | (positions >= end_Bx1)] = IGNORE_INDEX
        return targets


class RecordSequences(DocumentSequences):
    """One record per sequence; a batch is only as long as its longest record."""

    def token_counts(self, documents_B: np.ndarray) -> np.ndarray:
        """Tokens of each record, (B,): with an end-of-text before it, without the one after it."""
        documents = self.document_ends[documents_B] - self.document_starts[documents_B]
        return documents - 1 + self.eot_prefix

    def batch_length(self, documents_B: np.ndarray) -> int:
        return int(self.token_counts(documents_B).clip(1, self.length).max())

    @property
    def longest(self) -> int:
        """Input tokens of the longest sequence."""
        return self.batch_length(np.arange(len(self)))


class InstructionSequences(RecordSequences):
    """Prompt and response; the loss counts the response and the end-of-text after it.

    With `loss_on=all` it counts the prompt too.
    """

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        super().__init__(corpus, split, context, config, seed)
        if config.loss_on != "all":
            self.prompt_targets = self.eot_prefix + corpus.prompt_lengths(split) - 1


class ClassificationSequences(RecordSequences):
    """A message whose only target, at its last token, is the index of its class."""

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        super().__init__(corpus, split, context, config, seed)
        self.labels = corpus.labels(split)

    def target_counts(self, documents_B: np.ndarray) -> np.ndarray:
        return np.ones(len(documents_B), dtype=np.int64)

    def make_targets(self, sequences_BxT1: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        batch_size, tokens = sequences_BxT1.shape
        targets = np.full((batch_size, tokens - 1), IGNORE_INDEX)
        last_B = self.token_counts(documents_B).clip(1, self.length) - 1
        targets[np.arange(batch_size), last_B] = self.labels[documents_B]
        return targets


# data.batching, for data.task=text; the other tasks have a layout of their own.
BATCHING: dict[str, type[Sequences]] = {
    "rows": DocumentSequences,
    "random": RandomSequences,
    "sliding": SlidingSequences,
}
TASK_SEQUENCES: dict[str, type[Sequences]] = {
    "instructions": InstructionSequences,
    "classification": ClassificationSequences,
}


def make_sequences(
    corpus: Corpus, split: str, context: int, config: DataConfig, seed: int
) -> Sequences:
    """Cut a split into sequences as the task, or else `data.batching`, demands.

    Raises UserError if the split is too short.
    """
    batching = resolve_choice("data.batching", config.batching, BATCHING)
    if corpus.splits[split].documents == 0 or corpus.splits[split].tokens < 2:
        raise UserError(f"{corpus.folder}: the {split} split is too short for a single sequence")
    sequences = TASK_SEQUENCES.get(config.task, batching)
    return sequences(corpus, split, context, config, seed)
