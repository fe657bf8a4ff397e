"""Inspection over HTTP returns what the framework computes."""

from pathlib import Path

import pytest

from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import decode
from gptlab.evaluation.classification import class_probabilities
from gptlab.evaluation.interpretability import (
    attention_maps,
    logit_lens,
    nearest_tokens,
    token_expectations,
)
from gptlab.generation.engine import encode_prompt
from tests.app.serving import Server, find_run, load

TEXT = "Once upon a time, there was a"


@pytest.fixture(scope="module")
def model(folder: Path):
    return load(folder)


@pytest.fixture(scope="module")
def ids(model) -> list[int]:
    return encode_prompt(model.tokenizer, TEXT, model.eot_first)


def test_attention_weights_equal_the_models(model, ids: list[int], server: Server) -> None:
    _, body = server.request("/api/attention", {"text": TEXT, "layer": 1})
    assert len(body["tokens"]) == len(ids) and body["num_layers"] == 2
    for weights, weights_TxT in zip(body["heads"], attention_maps(model.net, ids)[1], strict=True):
        assert weights == pytest.approx((1000 * weights_TxT).flatten().tolist(), abs=0.51)
    status, body = server.request("/api/attention", {"text": TEXT, "layer": 9})
    assert status == 400 and body["error"] == "layer=9: must be 0 to 1 for this model"


def test_logit_lens_and_surprise_equal_the_models_predictions(model, ids, server: Server) -> None:
    _, lens = server.request("/api/logit_lens", {"text": TEXT})
    nats = [layer["nats"] for layer in lens["layers"]]
    assert nats == pytest.approx(logit_lens(model.net, ids, model.tokenizer.vocab_size).nats, 1e-3)
    _, surprise = server.request("/api/surprise", {"text": TEXT})
    expectations = token_expectations(model.net, ids, model.tokenizer.vocab_size)
    assert [token["rank"] for token in surprise["tokens"]] == [each.rank for each in expectations]


def test_nearest_tokens_are_listed_for_the_longest_tokens(model, ids, server: Server) -> None:
    _, body = server.request("/api/nearest_tokens", {"text": TEXT})
    id_of = {decode(model.tokenizer, [id]): id for id in ids}
    for each in body["tokens"]:
        nearest = nearest_tokens(
            model.net, id_of[each["token"]], model.tokenizer.vocab_size, top_k=8
        )
        assert [word for word, _ in each["nearest"]] == [
            decode(model.tokenizer, [id]) or "<|endoftext|>" for id, _ in nearest
        ]
    lengths = [len(each["token"]) for each in body["tokens"]]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) >= 3


def test_classifier_returns_class_probabilities(folder: Path, server: Server) -> None:
    request = {"run": find_run(folder, "spam").name, "text": "You won a prize", "unknown": "skip"}
    status, body = server.request("/api/classify", request)
    model = load(folder, "spam")
    ids = match_prompt(model.tokenizer, request["text"]).ids
    probabilities = class_probabilities(model.net, ids, model.tokenizer.eot, model.eot_first)
    assert status == 200
    assert [each["probability"] for each in body["classes"]] == pytest.approx(
        sorted(probabilities, reverse=True), abs=1e-5
    )


def test_classifier_refuses_to_generate_and_generator_to_classify(
    folder: Path, server: Server
) -> None:
    run, text = find_run(folder, "spam").name, "You won a prize"
    for path, request in [("generate", {"prompt": text}), ("logit_lens", {"text": text})]:
        status, body = server.request(f"/api/{path}", request | {"run": run})
        assert status == 400 and "is a classifier and cannot generate" in body["error"]
    status, body = server.request("/api/classify", {"text": text})
    assert status == 400 and "is no classifier" in body["error"]
