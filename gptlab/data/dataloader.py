"""Batches for training and validation, each made whole and known by its number alone."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.sequences import (
    IGNORE_INDEX,
    DocumentSequences,
    Sequences,
    SlidingSequences,
    make_sequences,
)

Batch = dict[str, Any]  # input and target, (B, T); of training also number and step_tokens


@dataclass
class BatchShape:
    """How rows fall into micro-batches, and micro-batches into optimizer steps."""

    batch_size: int  # rows in a micro-batch
    accumulate: int  # micro-batches in an optimizer step, on each process
    world_size: int = 1
    rank: int = 0

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.world_size


class TrainingBatches(Dataset):
    """Micro-batch m of this process, for any m: training has no end of its own.

    Rows are dealt to steps, within a step to micro-batches, and there to processes. Rows that
    fill no whole step at an epoch's end begin the next step: none is dropped.
    """

    def __init__(self, windows: Sequences, shape: BatchShape):
        self.windows = windows
        self.shape = shape

    def __getitem__(self, micro_batch: int) -> Batch:
        shape = self.shape
        step, part = divmod(micro_batch, shape.accumulate)
        first_of_step = step * shape.rows_per_step
        first = first_of_step + (part * shape.world_size + shape.rank) * shape.batch_size
        input_BxT, target_BxT = self.windows.read(np.arange(first, first + shape.batch_size))
        whole_step = np.arange(first_of_step, first_of_step + shape.rows_per_step)
        return {
            "input": input_BxT,
            "target": target_BxT,
            "number": micro_batch,
            # What the step's gradient is divided by: all its real targets, on all processes.
            "step_tokens": max(1, self.windows.real_tokens(whole_step)),
        }


class EndlessSampler(Sampler):
    """first, first + 1, … without an end and without a length, so no epoch is ever ragged."""

    def __init__(self, first: int):
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


class InProcessLoader:
    """Batches from a number on, made in this process: what a DataLoader does, without its cost."""

    def __init__(self, batches: TrainingBatches, first: int):
        self.dataset, self.first = batches, first

    def __iter__(self) -> Iterator[Batch]:
        return map(self.dataset.__getitem__, itertools.count(self.first))


class ValidationBatches(Dataset):
    """A split in its own order, every target once, at most about `max_tokens` of them (or all).

    Stream windows follow each other, or begin every `stride` tokens, so that but for the first
    each scored token sees at least the window less the stride; the last is moved back to end
    with the stream, and what the one before has scored already is ignored.
    """

    def __init__(
        self,
        windows: Sequences,
        batch_size: int,
        max_tokens: int | None,
        stride: int | None = None,
    ):
        self.windows = windows
        self.batch_size = batch_size
        max_tokens = sys.maxsize if max_tokens is None else max_tokens
        if isinstance(windows, DocumentSequences):
            counted = windows.counted(np.arange(len(windows))).cumsum()
            self.rows = max(1, int(np.searchsorted(counted, max_tokens, side="right")))
        else:
            assert isinstance(windows, SlidingSequences)
            self.targets = len(windows.tokens) - 1
            self.stride = min(stride or windows.length, windows.length)
            most = min(self.targets, max_tokens // windows.length * windows.length)
            self.rows = 1 + max(0, -(-(most - windows.length) // self.stride))

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        if number >= len(self):
            raise IndexError(number)
        first = number * self.batch_size
        rows = np.arange(first, min(first + self.batch_size, self.rows))
        if isinstance(self.windows, DocumentSequences):
            input_BxT, target_BxT = self.windows.read_documents(rows)
        else:
            input_BxT, target_BxT = self.read_stream(rows)
        return {"input": input_BxT, "target": target_BxT}

    def read_stream(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        windows = self.windows
        ends = np.minimum(windows.length + rows * self.stride, self.targets)
        scored = np.where(rows, windows.length + (rows - 1) * self.stride, 0)
        starts = ends - windows.length
        input_BxT, target_BxT = windows.read_at(starts)
        done = (scored - starts)[:, None]  # targets that the window before has scored
        target_BxT = target_BxT.clone()
        target_BxT[(np.arange(windows.length) < done)] = IGNORE_INDEX
        return input_BxT, target_BxT


class TextDataModule(LightningDataModule):
    """Endless training batches from any micro-batch on, and a bounded validation pass."""

    def __init__(
        self, corpus: Corpus, config: DataConfig, context: int, shape: BatchShape, seed: int
    ):
        super().__init__()
        self.corpus = corpus
        self.config = config
        self.shape = shape
        self.windows = make_sequences(corpus, "train", context, config, seed)
        self.context = context
        self.seed = seed
        self.first = 0  # the micro-batch that training begins with

    @property
    def rows_per_epoch(self) -> int:
        return len(self.windows)

    def train_dataloader(self) -> DataLoader | InProcessLoader:
        if self.trainer is not None:
            self.shape.world_size = self.trainer.world_size
            self.shape.rank = self.trainer.global_rank
        batches = TrainingBatches(self.windows, self.shape)
        if not self.config.num_workers:
            return InProcessLoader(batches, self.first)
        return self.load(batches, sampler=EndlessSampler(self.first))

    def val_dataloader(self) -> DataLoader:
        return self.load(self.validation("valid", self.config.valid_tokens))

    def validation(self, split: str, max_tokens: int | None) -> ValidationBatches:
        """A split in its own order, about `max_tokens` of it; all of it for None."""
        windows = make_sequences(self.corpus, split, self.context, self.config, self.seed)
        return ValidationBatches(windows, self.shape.batch_size, max_tokens)

    def drawn(self, split: str) -> TrainingBatches:
        """Batches of a split as training would draw them."""
        windows = make_sequences(self.corpus, split, self.context, self.config, self.seed)
        return TrainingBatches(windows, BatchShape(self.shape.batch_size, 1))

    def best_possible(self, max_tokens: int | None) -> float | None:
        """Nats per scored token of a validation pass that no model can beat but by luck.

        Known where the source knows its documents' likelihood and every token of the scored
        documents counts: whole documents as rows, from their first token to their end-of-text.
        """
        nats, config = self.corpus.nats("valid"), self.config
        validation = self.validation("valid", max_tokens)
        windows = validation.windows
        if nats is None or not isinstance(windows, DocumentSequences):
            return None
        documents = np.arange(validation.rows)
        tokens = windows.ends[documents] - windows.begins[documents]
        whole = config.eot_first and config.keep_first_eot and (tokens <= windows.length).all()
        return float(nats[documents].sum() / tokens.sum()) if whole else None

    def load(self, batches: TrainingBatches | ValidationBatches, **arguments) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            **arguments,
        )
