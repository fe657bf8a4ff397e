"""Make batches for training and validation, in the order that data_order.py decides."""

import itertools
import multiprocessing
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

Batch = dict[str, Any]  # input and target, (B, T); in training also micro_batch and step_tokens


@dataclass
class BatchShape:
    """How sequences form micro-batches, and micro-batches form optimizer steps."""

    batch_size: int  # sequences in a micro-batch
    accumulate: int  # micro-batches in an optimizer step, on each process
    world_size: int = 1
    rank: int = 0

    @property
    def sequences_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.world_size


class TrainingBatches(Dataset):
    """Infinite dataset of this process's micro-batches.

    Consecutive sequences fill a step: its micro-batches in turn, and each micro-batch process by
    process. Sequences that do not fill a step at the end of an epoch start the next step.
    """

    def __init__(self, sequences: Sequences, shape: BatchShape):
        self.sequences, self.shape = sequences, shape

    def __getitem__(self, micro_batch: int) -> Batch:
        shape = self.shape
        step, index_in_step = divmod(micro_batch, shape.accumulate)
        step_start = step * shape.sequences_per_step
        start = step_start + (index_in_step * shape.world_size + shape.rank) * shape.batch_size
        indices_B = np.arange(start, start + shape.batch_size)
        input_BxT, target_BxT = self.sequences.read_batch(indices_B)
        whole_step = np.arange(step_start, step_start + shape.sequences_per_step)
        return {
            "input": input_BxT,
            "target": target_BxT,
            "micro_batch": micro_batch,
            # The gradient is divided by the real targets of the whole step, on all processes.
            "step_tokens": max(1, self.sequences.total_targets(whole_step)),
        }


class EndlessSampler(Sampler):
    """Yield start, start + 1, … without end."""

    def __init__(self, start: int):
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


class InProcessLoader:
    """Make batches in this process, without a DataLoader's overhead."""

    def __init__(self, batches: TrainingBatches, start: int):
        self.dataset, self.start = batches, start

    def __iter__(self) -> Iterator[Batch]:
        return map(self.dataset.__getitem__, itertools.count(self.start))


class ValidationBatches(Dataset):
    """A split in corpus order, each target scored once, up to about `max_tokens` targets.

    Windows of a stream follow each other, or start every `stride` tokens, so that every scored
    token after the first window sees at least (length - stride) tokens before it. The last window
    is moved back to end with the stream. Targets that an earlier window scored are ignored.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        max_tokens: int | None,
        stride: int | None = None,
    ):
        self.sequences, self.batch_size = sequences, batch_size
        max_tokens = sys.maxsize if max_tokens is None else max_tokens
        if isinstance(sequences, DocumentSequences):
            targets = sequences.targets_per_document(np.arange(len(sequences))).cumsum()
            self.num_sequences = max(1, int(np.searchsorted(targets, max_tokens, side="right")))
        else:
            assert isinstance(sequences, SlidingSequences)
            length = sequences.length
            self.num_targets = len(sequences.tokens) - 1
            self.stride = min(stride or length, length)
            limit = min(self.num_targets, max_tokens // length * length)
            self.num_sequences = 1 + max(0, -(-(limit - length) // self.stride))

    def __len__(self) -> int:
        return -(-self.num_sequences // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        start = index * self.batch_size
        indices = np.arange(start, min(start + self.batch_size, self.num_sequences))
        if isinstance(self.sequences, DocumentSequences):
            input_BxT, target_BxT = self.sequences.read_document_batch(indices)
        else:
            input_BxT, target_BxT = self.read_stream(indices)
        return {"input": input_BxT, "target": target_BxT}

    def read_stream(self, indices_B: np.ndarray) -> tuple[Tensor, Tensor]:
        assert isinstance(self.sequences, SlidingSequences)
        length = self.sequences.length
        ends_B = np.minimum(length + indices_B * self.stride, self.num_targets)
        scored_B = np.where(indices_B, length + (indices_B - 1) * self.stride, 0)
        starts_B = ends_B - length
        input_BxT, target_BxT = self.sequences.read_windows(starts_B)
        target_BxT = target_BxT.clone()
        target_BxT[np.arange(length) < (scored_B - starts_B)[:, None]] = IGNORE_INDEX
        return input_BxT, target_BxT


def usable_workers(config: DataConfig) -> int:
    """Return data.num_workers, or 0 in a job of the joblib launcher, which cannot start any."""
    started_by_joblib = multiprocessing.get_start_method(allow_none=True) == "loky"
    is_job = started_by_joblib or multiprocessing.current_process().daemon
    return 0 if is_job else config.num_workers


class TextDataModule(LightningDataModule):
    """Endless training batches that start at any micro-batch, and a bounded validation pass."""

    def __init__(
        self, corpus: Corpus, config: DataConfig, context: int, shape: BatchShape, seed: int
    ):
        super().__init__()
        self.corpus, self.config = corpus, config
        self.context, self.shape, self.seed = context, shape, seed
        self.first_micro_batch = 0  # where training starts
        self.sequences = self.make_sequences("train")

    def make_sequences(self, split: str) -> Sequences:
        return make_sequences(self.corpus, split, self.context, self.config, self.seed)

    def train_dataloader(self) -> DataLoader | InProcessLoader:
        if self.trainer is not None:
            self.shape.world_size = self.trainer.world_size
            self.shape.rank = self.trainer.global_rank
        batches = TrainingBatches(self.sequences, self.shape)
        if not usable_workers(self.config):
            return InProcessLoader(batches, self.first_micro_batch)
        return self.make_dataloader(batches, EndlessSampler(self.first_micro_batch))

    def val_dataloader(self) -> DataLoader:
        return self.make_dataloader(self.validation_batches("valid", self.config.valid_tokens))

    def validation_batches(self, split: str, max_tokens: int | None) -> ValidationBatches:
        """Return about `max_tokens` targets of a split in corpus order; None: all of them."""
        return ValidationBatches(self.make_sequences(split), self.shape.batch_size, max_tokens)

    def best_possible_loss(self, max_tokens: int | None) -> float | None:
        """Return the validation loss of the true distribution, in nats per token.

        None unless the source knows the likelihood of its documents and every token of them is
        scored, from the first to the end-of-text.
        """
        nats, config = self.corpus.negative_log_likelihoods("valid"), self.config
        validation = self.validation_batches("valid", max_tokens)
        sequences = validation.sequences
        if nats is None or not isinstance(sequences, DocumentSequences):
            return None
        documents = np.arange(validation.num_sequences)
        tokens = sequences.document_ends[documents] - sequences.document_starts[documents]
        if not (config.eot_first and config.learn_eot and (tokens <= sequences.length).all()):
            return None
        return float(nats[documents].sum() / tokens.sum())

    def make_dataloader(
        self, batches: TrainingBatches | ValidationBatches, sampler: Sampler | None = None
    ) -> DataLoader:
        workers = usable_workers(self.config)
        return DataLoader(
            *(batches, None), sampler=sampler, num_workers=workers, persistent_workers=workers > 0
        )
