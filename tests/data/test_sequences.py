"""Batches: what stands in them, in which order, and that nothing is lost or counted twice."""

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
from gptlab.data.sequences import (
    IGNORE_INDEX,
    DocumentSequences,
    RandomSequences,
    SlidingSequences,
    feistel_permute,
)
from tests.conftest import toy_data

EOT = 50256


class FakeCorpus:
    """Documents given as lists of ids, an end-of-text after each."""

    def __init__(self, *documents: list[int]):
        self.stream = np.array([i for d in documents for i in [*d, EOT]], dtype=np.uint16)
        self.document_ends = np.cumsum([len(d) + 1 for d in documents])
        self.tokenizer = SimpleNamespace(eot=EOT)

    def tokens(self, split: str) -> np.ndarray:
        return self.stream

    def ends(self, split: str) -> np.ndarray:
        return self.document_ends


def rows_of(documents: list[list[int]], context: int = 8, **changes) -> DocumentSequences:
    config = DataConfig(batching="rows", **changes)
    return DocumentSequences(FakeCorpus(*documents), "train", context, config, seed=1)


def test_the_published_example() -> None:
    """ "Hello world" at length 4: [15496, 995], padded with 50256, shifted by one."""
    rows = rows_of([[15496, 995]], row_length=4, keep_first_eot=False)
    source, target = rows.read_documents(np.array([0]))
    assert source.tolist() == [[15496, 995, 50256]]
    assert target.tolist() == [[995, IGNORE_INDEX, IGNORE_INDEX]]
    kept = rows_of([[15496, 995]], row_length=4)
    assert kept.read_documents(np.array([0]))[1].tolist() == [[995, 50256, IGNORE_INDEX]]


def test_rows_are_cut_padded_and_begin_with_end_of_text_on_request() -> None:
    documents = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    rows = rows_of(documents, row_length=5, eot_first=True)
    source, target = rows.read_documents(np.arange(3))
    assert source.tolist() == [[EOT, 1, 2, 3], [EOT, 4, EOT, EOT], [EOT, 5, 6, 7]]
    assert target.tolist() == [[1, 2, 3, EOT], [4, EOT, IGNORE_INDEX, IGNORE_INDEX], [5, 6, 7, 8]]


@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.integers(2, 12),
)
def test_real_tokens_are_those_that_are_not_ignored(documents, eot_first, keep, length) -> None:
    rows = rows_of(
        documents, context=12, row_length=length, eot_first=eot_first, keep_first_eot=keep
    )
    indices = np.arange(2 * len(documents))
    _, target = rows.read(indices)
    assert rows.real_tokens(indices) == (target != IGNORE_INDEX).sum()
    if not keep:
        assert (target != EOT).all()


@given(st.integers(1, 400), st.integers(0, 2**63 - 1))
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(size: int, seed: int) -> None:
    order = feistel_permute(np.arange(3 * size), size, seed).reshape(3, size)
    assert (np.sort(order, axis=1) == np.arange(size)).all()
    if size > 20:
        assert not (order[0] == order[1]).all() and not (order[0] == np.arange(size)).all()
        assert not (feistel_permute(np.arange(size), size, seed ^ 1) == order[0]).all()


def test_order_does_not_depend_on_how_it_is_asked_for() -> None:
    whole = feistel_permute(np.arange(1000), 77, 5)
    alone = [feistel_permute(np.array([i]), 77, 5)[0] for i in range(1000)]
    assert whole.tolist() == alone


def test_order_is_near_uniform() -> None:
    """Over many seeds each row is first about equally often (chi-square, 19 degrees)."""
    first = [feistel_permute(np.array([0]), 20, seed)[0] for seed in range(4000)]
    counts = np.bincount(first, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # 99.9 %


def test_random_windows_begin_anywhere_and_shift_by_one() -> None:
    corpus = FakeCorpus(list(range(50)))
    windows = RandomSequences(corpus, "train", 8, DataConfig(), seed=3)
    source, target = windows.read(np.arange(3000))
    assert torch.equal(source[:, 1:], target[:, :-1])
    starts = set(source[:, 0].tolist())
    assert starts == set(range(len(corpus.stream) - 8))
    again, _ = windows.read(np.array([2999]))
    assert torch.equal(again[0], source[2999])


def test_sliding_windows_stand_at_every_stride() -> None:
    corpus = FakeCorpus(list(range(50)))
    windows = SlidingSequences(corpus, "train", 8, DataConfig(stride=3), seed=3)
    source, target = windows.read(np.arange(len(windows)))
    assert sorted(source[:, 0].tolist()) == list(range(0, 51 - 8, 3))
    assert torch.equal(source[:, 1:], target[:, :-1])


@pytest.mark.parametrize("length", [2, 7, 8, 9, 24, 50])
def test_validation_scores_every_target_of_a_stream_once(length: int) -> None:
    corpus = FakeCorpus(list(range(length - 1)))
    windows = SlidingSequences(corpus, "valid", 8, DataConfig(stride=3), seed=1)
    scored = targets_of(ValidationBatches(windows, 3, 10**6))
    assert scored == corpus.stream[1:].tolist()


def test_validation_of_rows_is_bounded_and_in_order() -> None:
    documents = [[i] * 3 for i in range(10)]
    rows = rows_of(documents, eot_first=True)
    assert targets_of(ValidationBatches(rows, 4, 10**6)) == FakeCorpus(*documents).stream.tolist()
    assert targets_of(ValidationBatches(rows, 4, 9)) == [0, 0, 0, EOT, 1, 1, 1, EOT]


def targets_of(batches: ValidationBatches) -> list[int]:
    kept = [batches[i]["target"].flatten() for i in range(len(batches))]
    return [int(t) for t in torch.cat(kept) if t != IGNORE_INDEX]


def test_micro_batches_and_ranks_share_out_the_steps_rows() -> None:
    """The same rows make a step, however they fall into micro-batches and processes."""
    rows = rows_of([[i] for i in range(40)], eot_first=True, row_length=3)

    def step(number: int, batch: int, accumulate: int, world: int) -> tuple[list, set]:
        seen, totals = [], set()
        for rank in range(world):
            batches = TrainingBatches(rows, BatchShape(batch, accumulate, world, rank))
            for micro in range(number * accumulate, (number + 1) * accumulate):
                seen += batches[micro]["target"][:, 0].tolist()
                totals.add(batches[micro]["step_tokens"])
        return sorted(seen), totals

    for number in range(5):
        assert step(number, 12, 1, 1) == step(number, 3, 4, 1) == step(number, 2, 3, 2)
        assert step(number, 12, 1, 1)[1] == {24}


def test_rows_left_over_at_an_epochs_end_begin_the_next_step() -> None:
    rows = rows_of([[i] for i in range(10)], eot_first=True, row_length=3)
    batches = TrainingBatches(rows, BatchShape(4, 1))
    seen = [int(t) for m in range(5) for t in batches[m]["target"][:, 0]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_workers_bring_the_same_batches_from_any_start(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(), 64, BatchShape(4, 2), seed=1)
    batches = TrainingBatches(data.windows, data.shape)
    loader = DataLoader(batches, sampler=EndlessSampler(7), batch_size=None, num_workers=2)
    for number, batch in zip(range(7, 12), loader, strict=False):
        assert torch.equal(batch["input"], batches[number]["input"])


def test_best_possible_only_where_all_of_whole_documents_counts(toy_corpus: Corpus) -> None:
    def best(context: int = 128, most: int | None = None, **changes) -> float | None:
        data = TextDataModule(toy_corpus, toy_data(**changes), context, BatchShape(4, 1), seed=1)
        return data.best_possible(most)

    nats, tokens = toy_corpus.nats("valid"), toy_corpus.splits["valid"].tokens
    assert best() == pytest.approx(nats.sum() / tokens)
    assert best(context=64) is None  # stories are cut
    assert best(eot_first=False) is None  # the first token is not scored
    assert best(keep_first_eot=False) is None
    assert best(batching="random") is None
    # A bounded validation is compared with just the documents that it scores.
    few = best(most=300)
    first = int((np.asarray(toy_corpus.ends("valid")) <= 300).sum())
    assert few == pytest.approx(nats[:first].sum() / toy_corpus.ends("valid")[first - 1])
