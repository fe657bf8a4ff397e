"""From a corpus to batches: which tokens stand in which row, in which order.

The order is a pure function of (seed, global index): no generator with a history, so that a run
can begin at any index and see what an uninterrupted run would have seen there. A batch is read
whole, by one indexed read from the memory map.

In shapes, B is the rows of a batch and T the input tokens of a row.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.utils.errors import UserError, resolve_choice
from gptlab.utils.hashing import splitmix64

IGNORE_INDEX = -100  # a target that does not count, as in torch.nn.functional.cross_entropy


class Sequences(Protocol):
    """Rows cut from one split. An epoch is `len` rows; indices count on through all epochs."""

    length: int  # T, input tokens of a row

    def __len__(self) -> int: ...

    def read(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target, (B, T) int64, of the rows with these global indices."""

    def real_tokens(self, indices_B: np.ndarray) -> int:
        """How many of these rows' targets count."""


def feistel_permute(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Global indices to rows of 0 … size - 1: in each epoch every row once, in an order of its own.

    A Feistel network over the bits of the index, walked until it falls within the size: a
    permutation of any size without a table. Black and Rogaway (2002), "Ciphers with Arbitrary
    Finite Domains".
    """
    epochs, rows = np.divmod(indices.astype(np.uint64), np.uint64(size))
    half = np.uint64(max(1, -(-max(size - 1, 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = splitmix64(splitmix64(np.full_like(epochs, seed)) + epochs)

    def scramble(x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for turn in range(6):
            left, right = right, left ^ (splitmix64(right ^ keys ^ np.uint64(turn << 58)) & mask)
        return (left << half) | right

    rows = scramble(rows, keys)
    while (outside := rows >= size).any():
        rows[outside] = scramble(rows[outside], keys[outside])
    return rows.astype(np.int64)


class SlidingSequences:
    """Windows at every `stride` tokens of the stream, the last one wherever it still fits."""

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        self.tokens = corpus.tokens(split)
        self.length = min((config.row_length or context + 1) - 1, len(self.tokens) - 1)
        self.stride = config.stride or self.length
        self.seed = seed

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def starts(self, indices_B: np.ndarray) -> np.ndarray:
        return feistel_permute(indices_B, len(self), self.seed) * self.stride

    def read(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_at(self.starts(indices_B))

    def read_at(self, starts_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target of the windows that begin at these tokens."""
        places = starts_B[:, None] + np.arange(self.length + 1)
        rows = torch.from_numpy(self.tokens[places].astype(np.int64))
        return rows[:, :-1], rows[:, 1:]

    def real_tokens(self, indices_B: np.ndarray) -> int:
        return len(indices_B) * self.length


class RandomSequences(SlidingSequences):
    """Windows that begin anywhere. An epoch is as many as would cover the stream once."""

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // self.length)

    def starts(self, indices_B: np.ndarray) -> np.ndarray:
        drawn = splitmix64(
            splitmix64(np.full(len(indices_B), self.seed, dtype=np.uint64))
            + indices_B.astype(np.uint64)
        )
        return (drawn / 2.0**64 * (len(self.tokens) - self.length)).astype(np.int64)


class DocumentSequences:
    """One document a row, cut or padded with end-of-text to the same length.

    Padding is ignored in the loss, but not the first end-of-text, by which the model learns to
    stop (`keep_first_eot`). With `eot_first` a row begins with end-of-text, so that the
    document's first token is predicted too.
    """

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        self.tokens = corpus.tokens(split)
        self.ends = corpus.ends(split)
        self.begins = np.concatenate(([0], self.ends[:-1]))
        self.length = (config.row_length or context + 1) - 1
        self.first = int(config.eot_first)
        self.keep_first_eot = config.keep_first_eot
        self.eot = corpus.tokenizer.eot
        self.seed = seed

    def __len__(self) -> int:
        return len(self.ends)

    def documents(self, indices_B: np.ndarray) -> np.ndarray:
        return feistel_permute(indices_B, len(self), self.seed)

    def counted(self, documents_B: np.ndarray) -> np.ndarray:
        """For each document the targets that count, (B,)."""
        tokens_B = self.ends[documents_B] - self.begins[documents_B] - (not self.keep_first_eot)
        return np.clip(tokens_B - (1 - self.first), 0, self.length)

    def real_tokens(self, indices_B: np.ndarray) -> int:
        return int(self.counted(self.documents(indices_B)).sum())

    def read(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.read_documents(self.documents(indices_B))

    def read_documents(self, documents_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input and target of the rows of these documents, in this order."""
        width = self.width(documents_B)
        begins_Bx1 = self.begins[documents_B][:, None]
        ends_Bx1 = self.ends[documents_B][:, None]
        places = begins_Bx1 + np.arange(-self.first, width + 1 - self.first)
        inside = (places >= begins_Bx1) & (places < ends_Bx1)
        rows = self.tokens[places.clip(0, len(self.tokens) - 1)].astype(np.int64)
        rows[~inside] = self.eot
        target = self.targets(rows, documents_B)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(target)

    def width(self, documents_B: np.ndarray) -> int:
        """Input tokens of these documents' rows."""
        return self.length

    def targets(self, rows: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        target = rows[:, 1:].copy()
        target[np.arange(target.shape[1]) >= self.counted(documents_B)[:, None]] = IGNORE_INDEX
        return target


class RecordSequences(DocumentSequences):
    """Rows as long as the longest of their batch needs, with one number known of each document."""

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        super().__init__(corpus, split, context, config, seed)
        self.marks = corpus.marks(split)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.width(np.arange(len(self)))

    def tokens_of(self, documents_B: np.ndarray) -> np.ndarray:
        """(B,), with the end-of-text before a document that there may be, not that after it."""
        return self.ends[documents_B] - self.begins[documents_B] - 1 + self.first

    def width(self, documents_B: np.ndarray) -> int:
        return int(self.tokens_of(documents_B).clip(1, self.length).max())


class InstructionSequences(RecordSequences):
    """Prompt and response; the response's tokens count, and the end-of-text after it.

    With `loss_on=all` the prompt's count too.
    """

    def __init__(self, corpus: Corpus, split: str, context: int, config: DataConfig, seed: int):
        super().__init__(corpus, split, context, config, seed)
        self.given = self.first + self.marks - 1  # targets within the prompt
        if config.loss_on == "all":
            self.given = np.zeros_like(self.marks)

    def counted(self, documents_B: np.ndarray) -> np.ndarray:
        return np.clip(super().counted(documents_B) - self.given[documents_B], 0, None)

    def targets(self, rows: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        target = rows[:, 1:].copy()
        given_Bx1 = self.given[documents_B][:, None]
        ends_Bx1 = given_Bx1 + self.counted(documents_B)[:, None]
        places = np.arange(target.shape[1])
        target[(places < given_Bx1) | (places >= ends_Bx1)] = IGNORE_INDEX
        return target


class ClassificationSequences(RecordSequences):
    """A message; its one target stands at its last token, and is its class."""

    def counted(self, documents_B: np.ndarray) -> np.ndarray:
        return np.ones(len(documents_B), dtype=np.int64)

    def targets(self, rows: np.ndarray, documents_B: np.ndarray) -> np.ndarray:
        target = np.full((len(rows), rows.shape[1] - 1), IGNORE_INDEX)
        last_B = self.tokens_of(documents_B).clip(1, self.length) - 1
        target[np.arange(len(rows)), last_B] = self.marks[documents_B]
        return target


SEQUENCES_BY_TASK = {
    "instructions": InstructionSequences,
    "classification": ClassificationSequences,
}
BATCHING = {"rows": DocumentSequences, "random": RandomSequences, "sliding": SlidingSequences}


def make_sequences(
    corpus: Corpus, split: str, context: int, config: DataConfig, seed: int
) -> Sequences:
    """The rows that the task, or else `data.batching`, makes of a split.

    Raises UserError where there are none.
    """
    kind = resolve_choice("data.batching", config.batching, BATCHING)
    kind = SEQUENCES_BY_TASK.get(config.task, kind)
    if corpus.splits[split].documents == 0 or corpus.splits[split].tokens < 2:
        raise UserError(f"{corpus.folder}: the {split} split is too short for a single window")
    return kind(corpus, split, context, config, seed)
