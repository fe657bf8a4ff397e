"""Cut a corpus into sequences, the rows of a batch, in the order of data_order.py.

The order depends on (seed, global index) only, so a run can start at any index and read what an
uninterrupted run reads there. A batch is one indexed read from the memory map.

In shapes, B is the sequences of a batch and T the input tokens of a sequence.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.data_order import feistel_permute, random_positions
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import resolve_choice

IGNORE_INDEX = -100  # a target that the loss ignores, as in torch.nn.functional.cross_entropy


class Sequences(Protocol):
    """The sequences of one split: `len` per epoch; larger indices continue into the next epoch."""

    length: int  # T, input tokens of a sequence

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int): ...

    def __len__(self) -> int: ...

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return input and target, each (B, T) int64, of the sequences with these indices."""

    def total_targets(self, indices_B: np.ndarray) -> int:
        """Count the targets in these sequences that the loss does not ignore."""


class SlidingSequences:
    """Windows that start at every `stride` tokens of the stream, without a partial last window."""

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        self.tokens = corpus.tokens(split)
        self.length = min((config.row_length or context + 1) - 1, len(self.tokens) - 1)
        self.stride = config.stride or self.length
        self.seed = seed

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def window_starts(self, indices_B: np.ndarray) -> np.ndarray:
        """Return the position of each window's first token, (B,)."""
        return feistel_permute(indices_B, len(self), self.seed) * self.stride

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_windows(self.window_starts(indices_B))

    def read_windows(self, starts_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return input and target of the windows that start at these positions."""
        positions = starts_B[:, None] + np.arange(self.length + 1)
        windows = torch.from_numpy(self.tokens[positions].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]

    def total_targets(self, indices_B: np.ndarray) -> int:
        return len(indices_B) * self.length


class RandomSequences(SlidingSequences):
    """Windows at random positions; an epoch has enough of them to cover the stream once."""

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // self.length)

    def window_starts(self, indices_B: np.ndarray) -> np.ndarray:
        return random_positions(indices_B, len(self.tokens) - self.length, self.seed)


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
        """Return the document at each global index, (B,)."""
        return feistel_permute(indices_B, len(self), self.seed)

    def targets_per_document(self, documents_B: np.ndarray) -> np.ndarray:
        """Count each document's targets that the loss does not ignore, (B,)."""
        tokens_B = self.document_ends[documents_B] - self.document_starts[documents_B]
        tokens_B = tokens_B - (not self.learn_eot) - (1 - self.eot_prefix)
        return (tokens_B.clip(0, self.length) - self.prompt_targets[documents_B]).clip(0)

    def total_targets(self, indices_B: np.ndarray) -> int:
        return int(self.targets_per_document(self.shuffled_documents(indices_B)).sum())

    def read_batch(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_document_batch(self.shuffled_documents(indices_B))

    def read_document_batch(self, documents_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return input and target of these documents, in this order."""
        starts_Bx1 = self.document_starts[documents_B][:, None]
        ends_Bx1 = self.document_ends[documents_B][:, None]
        width = self.padded_length(documents_B)
        positions = starts_Bx1 + np.arange(-self.eot_prefix, width + 1 - self.eot_prefix)
        inside = (positions >= starts_Bx1) & (positions < ends_Bx1)
        sequences = self.tokens[positions.clip(0, len(self.tokens) - 1)].astype(np.int64)
        sequences[~inside] = self.eot
        targets = self.make_targets(sequences, documents_B)
        return torch.from_numpy(sequences[:, :-1]), torch.from_numpy(targets)

    def padded_length(self, documents_B: np.ndarray) -> int:
        """Return the input tokens per sequence in a batch of these documents."""
        return self.length

    def make_targets(self, sequences_BxT1: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        targets = sequences_BxT1[:, 1:].copy()
        first_Bx1 = self.prompt_targets[documents_B][:, None]
        end_Bx1 = first_Bx1 + self.targets_per_document(documents_B)[:, None]
        positions = np.arange(targets.shape[1])
        targets[(positions < first_Bx1) | (positions >= end_Bx1)] = IGNORE_INDEX
        return targets


class RecordSequences(DocumentSequences):
    """One record per sequence; a batch is only as long as its longest record."""

    def token_counts(self, documents_B: np.ndarray) -> np.ndarray:
        """Count each record's tokens, (B,), without the end-of-text after it."""
        documents = self.document_ends[documents_B] - self.document_starts[documents_B]
        return documents - 1 + self.eot_prefix

    def padded_length(self, documents_B: np.ndarray) -> int:
        return int(self.token_counts(documents_B).clip(1, self.length).max())

    @property
    def longest(self) -> int:
        """The number of input tokens in the longest sequence."""
        return self.padded_length(np.arange(len(self)))


class InstructionSequences(RecordSequences):
    """Prompt and response; the loss ignores the prompt unless `loss_on=all`.

    The loss includes the end-of-text after the response.
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

    def targets_per_document(self, documents_B: np.ndarray) -> np.ndarray:
        return np.ones(len(documents_B), dtype=np.int64)

    def make_targets(self, sequences_BxT1: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        batch_size, tokens = sequences_BxT1.shape
        targets = np.full((batch_size, tokens - 1), IGNORE_INDEX)
        last_B = self.token_counts(documents_B).clip(1, self.length) - 1
        targets[np.arange(batch_size), last_B] = self.labels[documents_B]
        return targets


# data.batching, for data.task=text; each other task has one layout.
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
    """Cut a split into sequences by the layout of the task, or for text by `data.batching`.

    Raises UserError if the split is too short.
    """
    bases = (DocumentSequences, SlidingSequences)
    batching = resolve_choice("data.batching", config.batching, BATCHING, bases)
    if corpus.splits[split].documents == 0 or corpus.splits[split].tokens < 2:
        raise UserError(f"{corpus.folder}: the {split} split is too short for a single sequence")
    sequences = TASK_SEQUENCES.get(config.task, batching)
    return sequences(corpus, split, context, config, seed)
