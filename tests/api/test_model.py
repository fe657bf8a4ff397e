"""A model from Python: the command's texts, and probabilities that fit the network's own."""

import math
from pathlib import Path

import pytest
import torch

import gptlab
from tests.conftest import TINY

TEXT = "Once upon a time there was a little fox"


@pytest.fixture(scope="session")
def model(run: gptlab.Run) -> gptlab.Model:
    return gptlab.load(run.folder)


def logprobs_TxV(model: gptlab.Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.net(torch.tensor([ids]))[0, :, : model.tokenizer.vocab_size].log_softmax(-1)


def test_texts_are_those_of_the_command(command, run: gptlab.Run, model, home: Path) -> None:
    keys = ["sampling=top_k", "sampling.temperature=0.7", "seed=5", "max_new_tokens=9"]
    typed = command("generate", f"run={run.folder}", "prompt=Once upon", *keys).out
    (text,) = model.generate(
        "Once upon", sampling="top_k", temperature=0.7, seed=5, max_new_tokens=9
    )
    assert text == typed.removesuffix("\n") == "Once upon" + text.new_text
    texts = run.generate("Once upon", 3, sampling="top_k", temperature=0.7, seed=5)
    assert len(set(texts)) == 3 and all(isinstance(each, str) for each in texts)
    assert run.generate(max_new_tokens=3)[0].new_text


def test_each_new_token_has_its_probability(model: gptlab.Model) -> None:
    (text,) = model.generate(TEXT, max_new_tokens=4, sampling="greedy")
    assert "".join(token for token, _ in text.token_probabilities) == text.new_text
    found = dict(enumerate(model.token_probabilities(text)[-4:]))
    for position, (token, probability) in enumerate(text.token_probabilities):
        assert found[position] == (token, pytest.approx(probability, rel=1e-4))
    assert text.finish_reason == "length"


def test_the_loss_of_a_text_is_the_mean_over_its_tokens(model: gptlab.Model) -> None:
    ids = [model.tokenizer.eot, *model.encode(TEXT)]
    logprobs = logprobs_TxV(model, ids[:-1])[range(len(ids) - 1), ids[1:]]
    assert model.loss(TEXT) == pytest.approx(-float(logprobs.mean()))
    assert model.perplexity(TEXT) == pytest.approx(math.exp(model.loss(TEXT)))
    nats = model.loss(TEXT) * len(logprobs)
    assert model.bits_per_byte(TEXT) == pytest.approx(nats / math.log(2) / len(TEXT.encode()))
    tokens = model.token_probabilities(TEXT)
    assert [token for token, _ in tokens] == [model.decode([id]) for id in ids[1:]]
    assert [math.log(p) for _, p in tokens] == pytest.approx(logprobs.tolist())


def test_a_long_text_is_scored_in_windows(model: gptlab.Model) -> None:
    text = TEXT + " there was a little fox" * 60
    ids, window = [model.tokenizer.eot, *model.encode(text)], model.net.config.window
    assert len(ids) > 2 * window
    nats = [
        -float(logprobs_TxV(model, ids[start : start + window])[at, token])
        for start in range(0, len(ids) - 1, window)
        for at, token in enumerate(ids[start + 1 : start + window + 1])
    ]
    assert len(nats) == len(ids) - 1
    assert model.loss(text) == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    with pytest.raises(gptlab.UserError, match=f"the model sees {window} at once"):
        model.attention(text)


def test_attention_is_causal_and_each_row_sums_to_one(model: gptlab.Model) -> None:
    weights_LxHxTxT, tokens = model.attention(TEXT), model.tokens(TEXT)
    assert weights_LxHxTxT.shape == (1, 2, len(tokens), len(tokens))
    assert tokens[0] == "<|endoftext|>" and "".join(tokens[1:]) == TEXT
    assert torch.allclose(weights_LxHxTxT.sum(-1), torch.ones(1, 2, len(tokens)))
    assert not weights_LxHxTxT.triu(1).any()


def test_an_exported_folder_and_a_checkpoint_load(command, train_once, tmp_path: Path) -> None:
    like_gpt2 = ["model.position=learned", "model.feed_forward=gelu_tanh", "tokenizer=char"]
    run = gptlab.Run(train_once(*TINY, "profile=smoke", *like_gpt2).folder)
    exported = tmp_path / "exported"
    assert command("gptlab.export", f"run={run.folder}", f"output_dir={exported}").code == 0
    loss = gptlab.load(run.folder).loss(TEXT)
    last = run.folder / "checkpoints" / "last.ckpt"
    for other in (gptlab.load(exported), gptlab.load(str(last)), run.model("last")):
        assert other.loss(TEXT) == pytest.approx(loss, rel=1e-4)
        assert "2 heads" in repr(other)


def test_mistakes_are_one_line(run: gptlab.Run, model: gptlab.Model, home: Path) -> None:
    mistakes = {
        "sampling.top_k=0 must be at least 1": lambda: model.generate(top_k=0),
        "temprature: unknown setting; did you mean 'temperature'?": lambda: model.generate(
            temprature=1
        ),
        "sampling=topk: invalid choice": lambda: model.generate(sampling="topk"),
        "num_samples=0 must be at least 1": lambda: model.generate(n=0),
        "vocabulary lacks": lambda: gptlab.load(unknown="error").generate("xyzzy"),
        "is not a classifier": lambda: model.classify("hello"),
        "too short": lambda: model.loss(""),
        "no such run": lambda: gptlab.load("nowhere"),
        "weight_dtype=int3: invalid choice": lambda: gptlab.load(weight_dtype="int3"),
    }
    for words, call in mistakes.items():
        with pytest.raises(gptlab.UserError) as caught:
            call()
        assert words in caught.value.line()


def test_words_that_the_model_never_saw_are_skipped_and_named(trained: Path, capfd) -> None:
    model = gptlab.load()
    (text,) = model.generate("Once xyzzy", max_new_tokens=3)
    assert text.startswith("Once xyzzy") and '"xyzzy"' in capfd.readouterr().err
    assert model.loss("Once xyzzy upon") == model.loss("Once upon")
    assert '"xyzzy"' in capfd.readouterr().err
    (started,), (empty,) = model.generate("Hello", max_new_tokens=3), model.generate("")
    assert empty.startswith(started) and "nothing is left" in capfd.readouterr().err


def test_a_classifier_names_the_class(train_once) -> None:
    shared = train_once(*TINY, "profile=smoke", "data=toy_spam", "trainer.max_steps=2")
    model = gptlab.load(shared.folder)
    probabilities = model.classify("You won a prize")
    assert set(probabilities) == {"ham", "spam"}
    assert sum(probabilities.values()) == pytest.approx(1)
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    for call in (model.generate, lambda: model.loss(TEXT)):
        with pytest.raises(gptlab.UserError, match="is a classifier"):
            call()
    assert gptlab.Run(shared.folder).summary.accuracy is not None
