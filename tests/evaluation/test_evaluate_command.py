"""`python -m gptlab.evaluate`: what it prints, keeps, and what its figures are."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import ValidationBatches
from gptlab.data.sequences import make_sequences
from gptlab.data.toy import stories
from gptlab.evaluation.bleu_rouge import compare_continuations
from gptlab.evaluation.document_scores import read_document_scores, score_documents
from gptlab.evaluation.text_quality import measure_text_quality, training_words
from gptlab.model.checkpoint import load_checkpoint

QUICK = ["num_samples=3", "max_new_tokens=12", "max_tokens=500"]


def kept(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def names(run: Path) -> set[str]:
    """What the results in evaluation.json are results of."""
    return {name.partition("/")[0] for name in kept(run)["results"]}


def test_suites_are_printed_kept_and_shown_in_tensorboard(command, trained: Path) -> None:
    result = command("gptlab.evaluate", "suite=[perplexity,memorisation]", *QUICK)
    assert result.code == 0, result.err
    stored = kept(trained)
    loss = stored["results"]["valid/loss"]
    assert f"{loss:.4f}" in result.out and stored["step"] == 2
    result = command("gptlab.evaluate", "suite=[text_quality,bleu_rouge]", *QUICK)
    assert result.code == 0, result.err
    assert names(trained) >= {"valid", "memorisation", "text_quality", "bleu_rouge"}
    board = EventAccumulator(str(trained)).Reload()
    (told,) = board.Scalars("evaluation/valid/loss")
    assert (told.step, told.value) == (2, pytest.approx(loss))


@pytest.mark.parametrize("batching", ["rows", "sliding"])
def test_the_loss_of_each_document_is_its_own(trained: Path, toy_corpus, batching: str) -> None:
    model = load_checkpoint(trained / "checkpoints" / "best.ckpt")
    (folder,) = (trained.parent.parent / "corpora").iterdir()
    corpus = Corpus(folder)
    data = DataConfig(batching=batching, eot_first=batching == "rows")
    windows = make_sequences(corpus, "valid", 128, data, 1)
    batches = ValidationBatches(windows, 3, None)
    vocabulary = model.net.config.vocab_size
    ends = corpus.document_ends("valid")
    found = score_documents(model.net, batches, ends, torch.ones(vocabulary), "32-true")
    stream, begin = corpus.tokens("valid").astype(np.int64), 0
    wanted = np.diff([0, *ends])
    wanted[0] -= batching == "sliding"  # a stream's first token is nobody's target
    assert found.tokens.tolist() == wanted.tolist() == found.bytes.tolist()
    if batching == "rows":
        for number, end in enumerate(ends):
            ids = torch.tensor([[model.tokenizer.eot, *stream[begin:end]]])
            with torch.no_grad():
                logits = model.net(ids[:, :-1])[0]
            nats = F.cross_entropy(logits, ids[0, 1:], reduction="sum")
            assert found.nats[number] == pytest.approx(float(nats), rel=1e-5)
            begin = end
    assert found.loss == pytest.approx(found.nats.sum() / found.tokens.sum())


@pytest.mark.parametrize("stride", [1, 5, 16])
def test_strided_windows_score_each_token_once_and_far_from_their_beginning(
    trained: Path, stride: int
) -> None:
    model = load_checkpoint(trained / "checkpoints" / "best.ckpt")
    (folder,) = (trained.parent.parent / "corpora").iterdir()
    corpus = Corpus(folder)
    length, ends = 16, corpus.document_ends("valid")
    windows = make_sequences(corpus, "valid", length, DataConfig(batching="sliding"), 1)
    batches = ValidationBatches(windows, 4, 300, stride)
    ones = torch.ones(model.net.config.vocab_size)
    found = score_documents(model.net, batches, ends, ones, "32-true")
    scored = int(found.tokens.sum())
    stream, nats = torch.from_numpy(corpus.tokens("valid").astype(np.int64)), 0.0
    for target in range(1, scored + 1):  # one by one, each with the context that it has
        window = max(0, -(-(target - length) // stride))
        begin = min(window * stride, len(stream) - 1 - length)
        with torch.no_grad():
            logits = model.net(stream[None, begin:target])[0, -1]
        nats += float(F.cross_entropy(logits, stream[target]))
    assert scored >= 288 and found.nats.sum() == pytest.approx(nats, rel=1e-5)


def test_the_standard_error_is_that_of_a_mean(trained: Path) -> None:
    from gptlab.evaluation.document_scores import DocumentScores

    random = np.random.default_rng(1)
    nats = random.normal(100.0, 20.0, size=400)
    equal = DocumentScores(nats, np.full(400, 50.0), np.full(400, 200), 2.0)
    assert equal.standard_error() == pytest.approx(nats.std() / 50 / math.sqrt(400), rel=0.1)
    assert DocumentScores(nats[:1], nats[:1], nats[:1], 2.0).standard_error() is None


def test_another_text_is_scored_where_one_is_typed(command, trained: Path, tmp_path) -> None:
    texts = [stories.generate_story(9, number).text for number in range(40)]
    (tmp_path / "other.txt").write_text("<|endoftext|>".join(texts))
    other = ["data=text", "data.path=other.txt", "data.split=0.5", "tokenizer.unknown=skip"]
    result = command("gptlab.evaluate", "suite=[perplexity]", *other)
    assert result.code == 0, result.err
    assert "other-words-" in kept(trained)["corpus"]


def test_an_exported_model_needs_a_text(command, tmp_path: Path) -> None:
    gpt2 = ["model.position=learned", "model.feed_forward=gelu_tanh", "tokenizer=char"]
    assert command("train", "profile=smoke", *gpt2).code == 0
    assert command("gptlab.export", "output_dir=out").code == 0
    result = command("gptlab.evaluate", "run=out", "suite=[perplexity]")
    assert result.code == 2 and "name a text: data=text" in result.err
    result = command(
        *("gptlab.evaluate", "run=out", "suite=[perplexity]", "data=toy_stories", *QUICK),
        *("data.max_samples=60", "data.split=0.3"),
    )
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_stories_of_the_grammar_are_known_as_such() -> None:
    real = [stories.generate_story(3, number).text for number in range(4)]
    broken = [real[0] + " And", "Once upon a time"]
    known = training_words(real)
    figures = measure_text_quality(
        [*real, *broken], [True] * 4 + [False] * 2, known, stories.log_probability
    )
    assert figures.grammatical == pytest.approx(4 / 6) and figures.ended == pytest.approx(4 / 6)
    wanted = -sum(map(stories.log_probability, real)) / 4
    assert figures.nats == pytest.approx(wanted)
    assert figures.unknown_words == 0.0
    assert measure_text_quality(["a xyzzy"], [True], {"a"}, None).unknown_words == 0.5


def test_variety_is_counted_over_all_texts() -> None:
    same = measure_text_quality(["the fox ran"] * 4, [True] * 4, set(), None)
    assert same.distinct_1 == 3 / 12 and same.distinct_2 == 2 / 8 and same.words == 3
    again = measure_text_quality(["a b c d a b c d e"], [True], set(), None)
    assert again.repeated_4 == pytest.approx(1 / 6)  # of six runs of four one came before
    assert again.grammatical is None


def test_overlap_has_a_floor_and_real_endings_beside() -> None:
    real = ["the fox ran home to bed", "a bird sang in the tall tree", "we ate some warm soup"]
    found = compare_continuations(real, real)
    assert found["bleu_rouge"] == {"bleu": 1.0, "rouge_1": 1.0, "rouge_l": 1.0}
    assert found["bleu_rouge_shuffled"]["rouge_l"] < 0.3
    others = found["bleu_rouge_other_real"]["rouge_1"]
    assert others == pytest.approx(found["bleu_rouge_shuffled"]["rouge_1"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["suite=[perplexty]"], "did you mean 'perplexity'"),
        ([], "suite: choose from perplexity"),
        (["suite=[hellaswag]", "hellaswag.path=none"], "hellaswag.path=none"),
        (["suite=[perplexity]", "stride=5"], "stride=5: works on windows"),
        (["suite=[perplexity]", "data=text", "data.path=none.txt"], "no such file"),
        (["suite=[perplexity]", "precision=fp8"], "precision=fp8: invalid choice"),
        (["suite=[bleu_rouge]", "num_samples=1"], "num_samples=1: must be at least 2"),
        (["suite=[text_quality]", "prompt=Xyloph§"], "unknown=skip"),
    ],
)
def test_mistakes_are_one_line(command, trained: Path, typed: list[str], words: str) -> None:
    result = command("gptlab.evaluate", *typed)
    assert result.code == 2 and words in result.err, result.err
    assert not (trained / "evaluation.json").exists()


def test_what_was_measured_is_kept_when_a_later_suite_fails(command, trained: Path) -> None:
    result = command("gptlab.evaluate", "suite=[perplexity,text_quality]", "prompt=Xyloph§", *QUICK)
    assert result.code == 2 and "unknown=skip" in result.err
    assert set(kept(trained)) == {"checkpoint", "step", "corpus", "results"}
    assert names(trained) == {"valid"}
    result = command(
        "gptlab.evaluate", "suite=[text_quality]", "prompt=One§ day", "unknown=skip", *QUICK
    )
    assert result.code == 0, result.err
    assert {"valid", "text_quality"} <= names(trained)


def test_another_checkpoint_takes_the_place_of_what_was_kept(command, trained: Path) -> None:
    assert command("gptlab.evaluate", "suite=[perplexity]", "batch_size=1", *QUICK).code == 0
    how, documents = read_document_scores(trained / "evaluation.npz")
    assert '"max_tokens": 500' in how and '"stride": null' in how
    results = kept(trained)["results"]
    assert documents["valid"].loss == pytest.approx(results["valid/loss"])
    means = results["valid/perplexity_of_batch_means"]
    assert means == pytest.approx(np.exp(documents["valid"].batch_means))
    assert means != results["valid/perplexity"]
    last = f"run={trained / 'checkpoints' / 'last.ckpt'}"
    assert command("gptlab.evaluate", "suite=[text_quality]", last, *QUICK).code == 0
    assert "valid" not in names(trained) and kept(trained)["checkpoint"] == "last.ckpt"
    assert not (trained / "evaluation.npz").exists()
    tags = EventAccumulator(str(trained)).Reload().Tags()["scalars"]
    assert not [tag for tag in tags if tag.startswith("evaluation/valid")]
    assert [path.name for path in trained.glob(".evaluation*")] == []
