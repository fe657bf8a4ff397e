"""Sequences and batches: their content, their order, and each target scored once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import (
    BatchShape,
    EndlessSampler,
    TextDataModule,
    TrainingBatches,
    ValidationBatches,
)
from gptlab.data.sequences import IGNORE_INDEX, DocumentSequences, RandomSequences, SlidingSequences
from tests.conftest import toy_data

EOT = 50256


class FakeCorpus:
    """Documents as lists of ids, each followed by end-of-text."""

    def __init__(self, *documents: list[int]):
        self.stream = np.array([i for d in documents for i in [*d, EOT]], dtype=np.uint16)
        self.ends = np.cumsum([len(d) + 1 for d in documents])
        self.tokenizer = SimpleNamespace(eot=EOT)

    def tokens(self, split: str) -> np.ndarray:
        return self.stream

    def document_ends(self, split: str) -> np.ndarray:
        return self.ends


def document_sequences(
    documents: list[list[int]], context: int = 8, **changes
) -> DocumentSequences:
    config = DataConfig(batching="rows", **changes)
    return DocumentSequences(FakeCorpus(*documents), "train", context, config, seed=1)


@pytest.mark.fast
def test_a_document_sequence_matches_the_published_example() -> None:
    """ "Hello world" at length 4: [15496, 995], padded with 50256, shifted by one."""
    sequences = document_sequences([[15496, 995]], row_length=4, learn_eot=False)
    source, target = sequences.read_document_batch(np.array([0]))
    assert source.tolist() == [[15496, 995, 50256]]
    assert target.tolist() == [[995, IGNORE_INDEX, IGNORE_INDEX]]
    kept = document_sequences([[15496, 995]], row_length=4)
    assert kept.read_document_batch(np.array([0]))[1].tolist() == [[995, 50256, IGNORE_INDEX]]


@pytest.mark.fast
def test_documents_are_cut_or_padded_and_can_start_with_end_of_text() -> None:
    documents = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    sequences = document_sequences(documents, row_length=5, eot_first=True)
    source, target = sequences.read_document_batch(np.arange(3))
    assert source.tolist() == [[EOT, 1, 2, 3], [EOT, 4, EOT, EOT], [EOT, 5, 6, 7]]
    assert target.tolist() == [[1, 2, 3, EOT], [4, EOT, IGNORE_INDEX, IGNORE_INDEX], [5, 6, 7, 8]]


@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.integers(2, 12),
)
def test_total_targets_leaves_out_ignored_targets(documents, eot_first, keep, length) -> None:
    sequences = document_sequences(
        documents, context=12, row_length=length, eot_first=eot_first, learn_eot=keep
    )
    indices = np.arange(2 * len(documents))
    _, target = sequences.read_batch(indices)
    assert sequences.total_targets(indices) == (target != IGNORE_INDEX).sum()
    if not keep:
        assert (target != EOT).all()


@pytest.mark.fast
def test_random_windows_start_anywhere_with_targets_shifted_by_one() -> None:
    corpus = FakeCorpus(list(range(50)))
    windows = RandomSequences(corpus, "train", 8, DataConfig(), seed=3)
    source, target = windows.read_batch(np.arange(3000))
    assert torch.equal(source[:, 1:], target[:, :-1])
    starts = set(source[:, 0].tolist())
    assert starts == set(range(len(corpus.stream) - 8))
    again, _ = windows.read_batch(np.array([2999]))
    assert torch.equal(again[0], source[2999])


@pytest.mark.fast
def test_sliding_windows_start_at_every_stride() -> None:
    corpus = FakeCorpus(list(range(50)))
    windows = SlidingSequences(corpus, "train", 8, DataConfig(stride=3), seed=3)
    source, target = windows.read_batch(np.arange(len(windows)))
    assert sorted(source[:, 0].tolist()) == list(range(0, 51 - 8, 3))
    assert torch.equal(source[:, 1:], target[:, :-1])


@pytest.mark.fast
@pytest.mark.parametrize("length", [2, 7, 8, 9, 24, 50])
def test_validation_scores_each_target_of_a_stream_once(length: int) -> None:
    corpus = FakeCorpus(list(range(length - 1)))
    windows = SlidingSequences(corpus, "valid", 8, DataConfig(stride=3), seed=1)
    scored = scored_targets(ValidationBatches(windows, 3, 10**6))
    assert scored == corpus.stream[1:].tolist()


@pytest.mark.fast
def test_validation_of_documents_is_bounded_and_in_corpus_order() -> None:
    documents = [[i] * 3 for i in range(10)]
    sequences = document_sequences(documents, eot_first=True)
    assert (
        scored_targets(ValidationBatches(sequences, 4, 10**6))
        == FakeCorpus(*documents).stream.tolist()
    )
    assert scored_targets(ValidationBatches(sequences, 4, 9)) == [0, 0, 0, EOT, 1, 1, 1, EOT]


def scored_targets(batches: ValidationBatches) -> list[int]:
    kept = [batches[i]["target"].flatten() for i in range(len(batches))]
    return [int(t) for t in torch.cat(kept) if t != IGNORE_INDEX]


@pytest.mark.fast
def test_a_step_has_the_same_sequences_for_any_micro_batches_and_processes() -> None:
    sequences = document_sequences([[i] for i in range(40)], eot_first=True, row_length=3)

    def step(number: int, batch: int, accumulate: int, world: int) -> tuple[list, set]:
        seen, totals = [], set()
        for rank in range(world):
            batches = TrainingBatches(sequences, BatchShape(batch, accumulate, world, rank))
            for micro in range(number * accumulate, (number + 1) * accumulate):
                seen += batches[micro]["target"][:, 0].tolist()
                totals.add(batches[micro]["step_tokens"])
        return sorted(seen), totals

    for number in range(5):
        assert step(number, 12, 1, 1) == step(number, 3, 4, 1) == step(number, 2, 3, 2)
        assert step(number, 12, 1, 1)[1] == {24}


@pytest.mark.fast
def test_sequences_left_over_in_an_epoch_start_the_next_step() -> None:
    sequences = document_sequences([[i] for i in range(10)], eot_first=True, row_length=3)
    batches = TrainingBatches(sequences, BatchShape(4, 1))
    seen = [int(t) for m in range(5) for t in batches[m]["target"][:, 0]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_workers_load_the_same_batches_from_any_start(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(), 64, BatchShape(4, 2), seed=1)
    batches = TrainingBatches(data.sequences, data.shape)
    loader = DataLoader(batches, sampler=EndlessSampler(7), batch_size=None, num_workers=2)
    for number, batch in zip(range(7, 12), loader, strict=False):
        assert torch.equal(batch["input"], batches[number]["input"])


def test_best_possible_loss_needs_whole_documents_with_every_token_scored(
    toy_corpus: Corpus,
) -> None:
    def best(context: int = 128, max_tokens: int | None = None, **changes) -> float | None:
        data = TextDataModule(toy_corpus, toy_data(**changes), context, BatchShape(4, 1), seed=1)
        return data.best_possible_loss(max_tokens)

    nats, tokens = toy_corpus.negative_log_likelihoods("valid"), toy_corpus.splits["valid"].tokens
    assert best() == pytest.approx(nats.sum() / tokens)
    assert best(context=64) is None  # stories are cut
    assert best(eot_first=False) is None  # the first token is not scored
    assert best(learn_eot=False) is None
    assert best(batching="random") is None
    # A bounded validation is compared with the documents that it scores.
    few = best(max_tokens=300)
    first = int((np.asarray(toy_corpus.document_ends("valid")) <= 300).sum())
    assert few == pytest.approx(nats[:first].sum() / toy_corpus.document_ends("valid")[first - 1])
