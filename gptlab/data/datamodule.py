"""The data of a run as Lightning wants it."""

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from gptlab.config import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.loader import Endless, InOrder, Shape, TrainingBatches, ValidationBatches
from gptlab.data.windows import Rows, make_windows


class TextData(LightningDataModule):
    """Endless training batches from any micro-batch on, and a bounded validation pass."""

    def __init__(self, corpus: Corpus, config: DataConfig, context: int, shape: Shape, seed: int):
        super().__init__()
        self.corpus = corpus
        self.config = config
        self.shape = shape
        self.windows = make_windows(corpus, "train", context, config, seed)
        self.context = context
        self.seed = seed
        self.first = 0  # the micro-batch that training begins with

    @property
    def rows_per_epoch(self) -> int:
        return len(self.windows)

    def train_dataloader(self) -> DataLoader | InOrder:
        if self.trainer is not None:
            self.shape.world_size = self.trainer.world_size
            self.shape.rank = self.trainer.global_rank
        batches = TrainingBatches(self.windows, self.shape)
        if not self.config.num_workers:
            return InOrder(batches, self.first)
        return self.load(batches, sampler=Endless(self.first))

    def val_dataloader(self) -> DataLoader:
        return self.load(self.validation("valid", self.config.valid_tokens))

    def validation(self, split: str, most_tokens: int | None) -> ValidationBatches:
        """A split in its own order, about `most_tokens` of it; all of it for None."""
        windows = make_windows(self.corpus, split, self.context, self.config, self.seed)
        return ValidationBatches(windows, self.shape.batch_size, most_tokens)

    def drawn(self, split: str) -> TrainingBatches:
        """Batches of a split as training would draw them."""
        windows = make_windows(self.corpus, split, self.context, self.config, self.seed)
        return TrainingBatches(windows, Shape(self.shape.batch_size, 1))

    def best_possible(self, most_tokens: int | None) -> float | None:
        """Nats per scored token of a validation pass that no model can beat but by luck.

        Known where the source knows its documents' likelihood and every token of the scored
        documents counts: whole documents as rows, from their first token to their end-of-text.
        """
        nats, config = self.corpus.nats("valid"), self.config
        validation = self.validation("valid", most_tokens)
        windows = validation.windows
        if nats is None or not isinstance(windows, Rows):
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
