"""OpenAI's own client, at the page's server."""

from dataclasses import replace
from pathlib import Path

import openai
import pytest

from gptlab.app import openai_api
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.engine import encode_prompt
from tests.app.serving import PROMPT, Server, by_hand, model_of, run_of

pytest_plugins = ["tests.app.serving"]


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_openais_client_completes(folder: Path, client: openai.OpenAI) -> None:
    settings = {"model": "gptlab", "prompt": PROMPT, "max_tokens": 12, "seed": 5, "top_p": 0.9}
    samples = by_hand(model_of(folder))
    whole = client.completions.create(**settings, n=2, logprobs=3)
    assert [choice.text for choice in whole.choices] == [sample.text for sample in samples]
    told = whole.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(samples[0].logprobs)
    for token, logprob, beside in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert 3 <= len(beside) <= 4 and beside[token] == pytest.approx(logprob)
    assert 4 in map(len, told.top_logprobs)  # one that is not among the likeliest stands there too
    assert whole.usage.completion_tokens == sum(len(sample.logprobs) for sample in samples)
    ways = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(**settings, n=2, **ways))
    for i, sample in enumerate(samples):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert "".join(part.text for part in parts) == sample.text
        assert [part.finish_reason for part in parts][-1] in ("stop", "length")
    assert chunks[-1].usage == whole.usage


def test_openais_client_has_its_other_fields(folder: Path, client: openai.OpenAI) -> None:
    run = run_of(folder, "story").name
    assert run in [model.id for model in client.models.list().data]
    settings = {"model": f"{run}:step_4", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(**settings, prompt=PROMPT).choices[0].text
    echoed = client.completions.create(**settings, prompt=PROMPT, echo=True).choices[0].text
    assert echoed == PROMPT + text
    stop = text[3:5]
    cut = client.completions.create(**settings, prompt=PROMPT, stop=stop).choices[0]
    assert cut.text == text[: text.find(stop)] and cut.finish_reason == "stop"
    model = model_of(folder)
    tokens = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    both = client.completions.create(**settings, prompt=[PROMPT, "One day"])
    assert both.choices[0].text == text and both.choices[1].index == 1
    assert client.completions.create(**settings, prompt=tokens).choices[0].text == text
    settings = {"model": run, "prompt": PROMPT, "max_tokens": 8, "seed": 2, "logprobs": 0}
    best = client.completions.create(**settings, best_of=4, top_p=0.9).choices
    samples = by_hand(model_of(folder), num_samples=4, seed=2, max_new_tokens=8)
    assert [choice.text for choice in best] == [max(samples, key=lambda s: s.mean_logprob).text]


def test_openais_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no such run"):
        client.completions.create(model="nope", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="vocabulary lacks"):
        client.completions.create(model="gptlab", prompt="ß", stream=True)
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        client.completions.create(model="gptlab", prompt=PROMPT, presence_penalty=1.0)
    with pytest.raises(openai.BadRequestError, match="up to eight"):
        client.completions.create(model="gptlab", prompt=PROMPT, stop=list("abcdefghi"))
    with pytest.raises(openai.BadRequestError, match="for echo"):
        client.completions.create(model="gptlab", prompt=PROMPT, max_tokens=0)
    for status, kind in [(422, "invalid_request_error"), (403, "invalid_request_error")]:
        assert openai_api.as_error(status, "")["error"]["type"] == kind
    assert openai_api.as_error(503, "")["error"]["type"] == "server_error"


def test_null_is_the_default() -> None:
    asked = openai_api.Completion(model="x", max_tokens=None, n=None, temperature=None)
    assert asked == openai_api.Completion(model="x")


def test_an_echo_has_log_probabilities(folder: Path, client: openai.OpenAI) -> None:
    model = model_of(folder)
    settings = {"model": "gptlab", "echo": True, "logprobs": 2, "temperature": 0}
    (told,) = client.completions.create(**settings, prompt=PROMPT, max_tokens=0).choices
    ids = encode_prompt(model.tokenizer, PROMPT, True)
    found = token_expectations(model.net, ids, model.tokenizer.vocab_size)
    assert model.eot_first and told.text == PROMPT and told.finish_reason == "length"
    assert told.logprobs.token_logprobs == pytest.approx([-each.nats for each in found], 1e-4)
    assert "".join(told.logprobs.tokens) == PROMPT
    for at, token in zip(told.logprobs.text_offset, told.logprobs.tokens, strict=True):
        assert PROMPT[at:].startswith(token)
    (tokens,) = client.completions.create(**settings, prompt=ids, max_tokens=3).choices
    assert tokens.logprobs.token_logprobs[0] is None and len(tokens.logprobs.tokens) > len(ids)
    assert tokens.logprobs.token_logprobs[1 : len(ids)] == told.logprobs.token_logprobs


def test_an_echo_of_several_tokens_a_letter(folder: Path) -> None:
    text, tokenizer = "Hello 😀 café مرحبا", GPT2Tokenizer()
    model = replace(model_of(folder), tokenizer=tokenizer)
    talk = openai_api.Talk(openai_api.Completion(model="x", echo=True), "x", 10)
    assert talk.echoed(model, encode_prompt(tokenizer, text, True), True) == (text, None)
