"""The loss of each document, strided windows, and the standard error."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.config.schema import ModelConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import ValidationBatches
from gptlab.data.sequences import make_sequences
from gptlab.evaluation.document_scores import DocumentScores, score_documents
from gptlab.evaluation.perplexity import score_split
from gptlab.model.gpt import GPT
from tests.conftest import toy_data


@pytest.fixture(scope="module")
def net(toy_corpus: Corpus) -> GPT:
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 128, "init_std": 0.1}
    return GPT(ModelConfig(vocab_size=toy_corpus.tokenizer.vocab_size, **size)).eval()


@pytest.mark.fast
@pytest.mark.parametrize("batching", ["rows", "sliding"])
def test_each_document_gets_the_loss_of_its_own_tokens(
    toy_corpus: Corpus, net: GPT, batching: str
) -> None:
    data = toy_data(batching=batching, eot_first=batching == "rows")
    batches = ValidationBatches(make_sequences(toy_corpus, "valid", 128, data, 1), 3, None)
    ends, ones = toy_corpus.document_ends("valid"), torch.ones(net.config.vocab_size)
    scores = score_documents(net, batches, ends, ones, "32-true")
    lengths = np.diff([0, *ends])
    lengths[0] -= batching == "sliding"  # a stream's first token is never a target
    assert scores.tokens.tolist() == lengths.tolist() == scores.bytes.tolist()
    if batching == "rows":
        eot, stream, begin = toy_corpus.tokenizer.eot, toy_corpus.tokens("valid"), 0
        for number, end in enumerate(ends):
            ids = torch.tensor([[eot, *stream[begin:end].tolist()]])
            with torch.no_grad():
                nats = F.cross_entropy(net(ids[:, :-1])[0], ids[0, 1:], reduction="sum")
            assert scores.nats[number] == pytest.approx(float(nats), rel=1e-5)
            begin = end
    in_order = (batches[number] for number in range(len(batches)))
    whole = score_split(net, in_order, ones.long(), "32-true")
    assert scores.loss == pytest.approx(whole.loss, rel=1e-6) and whole.tokens == lengths.sum()


@pytest.mark.parametrize("stride", [1, 5, 16])
def test_strided_windows_score_each_token_once_with_a_long_context(
    toy_corpus: Corpus, net: GPT, stride: int
) -> None:
    length, ends = 16, toy_corpus.document_ends("valid")
    sequences = make_sequences(toy_corpus, "valid", length, toy_data(batching="sliding"), 1)
    batches = ValidationBatches(sequences, 4, 300, stride)
    scores = score_documents(net, batches, ends, torch.ones(net.config.vocab_size), "32-true")
    scored = int(scores.tokens.sum())
    stream, nats = torch.from_numpy(toy_corpus.tokens("valid").astype(np.int64)), 0.0
    for target in range(1, scored + 1):  # one by one, each with the context of its window
        window = max(0, -(-(target - length) // stride))
        begin = min(window * stride, len(stream) - 1 - length)
        with torch.no_grad():
            logits = net(stream[None, begin:target])[0, -1]
        nats += float(F.cross_entropy(logits, stream[target]))
    assert scored >= 288 and scores.nats.sum() == pytest.approx(nats, rel=1e-5)


@pytest.mark.fast
def test_the_bootstrap_gives_the_standard_error_of_a_mean() -> None:
    nats = np.random.default_rng(1).normal(100.0, 20.0, size=400)
    equal = DocumentScores(nats, np.full(400, 50.0), np.full(400, 200), 2.0)
    assert equal.standard_error() == pytest.approx(nats.std() / 50 / math.sqrt(400), rel=0.1)
    assert DocumentScores(nats[:1], nats[:1], nats[:1], 2.0).standard_error() is None
