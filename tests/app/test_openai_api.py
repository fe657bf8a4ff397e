"""OpenAI's own client works with the server."""

from dataclasses import replace
from pathlib import Path

import openai
import pytest

from gptlab.app import openai_api
from gptlab.app.openai_api import CompletionJob, CompletionRequest
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.evaluation.interpretability import token_expectations
from gptlab.generation.engine import encode_prompt
from tests.app.serving import PROMPT, Server, find_run, generate_directly, load


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_completions_equal_the_engines_samples(folder: Path, client: openai.OpenAI) -> None:
    settings = {"model": "gptlab", "prompt": PROMPT, "max_tokens": 12, "seed": 5, "top_p": 0.9}
    samples = generate_directly(load(folder))
    whole = client.completions.create(**settings, n=2, logprobs=3)
    assert [choice.text for choice in whole.choices] == [sample.text for sample in samples]
    logprobs = whole.choices[0].logprobs
    assert logprobs.token_logprobs == pytest.approx(samples[0].logprobs)
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert 3 <= len(top) <= 4 and top[token] == pytest.approx(logprob)
    assert 4 in map(len, logprobs.top_logprobs)  # a sampled token outside the top is included
    assert whole.usage.completion_tokens == sum(len(sample.logprobs) for sample in samples)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(**settings, n=2, **options))
    for i, sample in enumerate(samples):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert "".join(part.text for part in parts) == sample.text
        assert [part.finish_reason for part in parts][-1] in ("stop", "length")
    assert chunks[-1].usage == whole.usage


def test_models_echo_stop_token_prompts_and_best_of(folder: Path, client: openai.OpenAI) -> None:
    run = find_run(folder, "story").name
    assert run in [model.id for model in client.models.list().data]
    settings = {"model": f"{run}:step_4", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(**settings, prompt=PROMPT).choices[0].text
    echoed = client.completions.create(**settings, prompt=PROMPT, echo=True).choices[0].text
    assert echoed == PROMPT + text
    stop = text[3:5]
    cut = client.completions.create(**settings, prompt=PROMPT, stop=stop).choices[0]
    assert cut.text == text[: text.find(stop)] and cut.finish_reason == "stop"
    model = load(folder)
    ids = encode_prompt(model.tokenizer, PROMPT, model.eot_first)
    both = client.completions.create(**settings, prompt=[PROMPT, "One day"])
    assert both.choices[0].text == text and both.choices[1].index == 1
    assert client.completions.create(**settings, prompt=ids).choices[0].text == text
    settings = {"model": run, "prompt": PROMPT, "max_tokens": 8, "seed": 2, "logprobs": 0}
    best = client.completions.create(**settings, best_of=4, top_p=0.9).choices
    samples = generate_directly(load(folder), num_samples=4, seed=2, max_new_tokens=8)
    assert [choice.text for choice in best] == [max(samples, key=lambda s: s.mean_logprob).text]


def test_errors_have_the_types_that_openais_client_expects(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no such run"):
        client.completions.create(model="nope", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="ß"):
        client.completions.create(model="gptlab", prompt="ß", echo=True, logprobs=1)
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        client.completions.create(model="gptlab", prompt=PROMPT, presence_penalty=1.0)
    with pytest.raises(openai.BadRequestError, match="at most 8"):
        client.completions.create(model="gptlab", prompt=PROMPT, stop=list("abcdefghi"))
    with pytest.raises(openai.BadRequestError, match="needs echo"):
        client.completions.create(model="gptlab", prompt=PROMPT, max_tokens=0)
    for status, kind in [(422, "invalid_request_error"), (403, "invalid_request_error")]:
        assert openai_api.openai_error(status, "")["error"]["type"] == kind
    assert openai_api.openai_error(503, "")["error"]["type"] == "server_error"


def test_unknown_words_are_skipped_and_named(client: openai.OpenAI) -> None:
    settings = {"model": "gptlab", "max_tokens": 5, "temperature": 0}
    whole = client.completions.create(**settings, prompt=[f"ß {PROMPT}", PROMPT])
    assert whole.skipped == ["ß"]
    known = client.completions.create(**settings, prompt=PROMPT)
    assert whole.choices[1].text == known.choices[0].text and not hasattr(known, "skipped")
    (chunk, *_) = client.completions.create(**settings, prompt="ß", stream=True)
    assert chunk.skipped == ["ß"]


@pytest.mark.fast
def test_null_fields_use_their_defaults() -> None:
    request = CompletionRequest(model="x", max_tokens=None, n=None, temperature=None)
    assert request == CompletionRequest(model="x")


def test_echo_with_logprobs_scores_the_prompt(folder: Path, client: openai.OpenAI) -> None:
    model = load(folder)
    settings = {"model": "gptlab", "echo": True, "logprobs": 2, "temperature": 0}
    (scored,) = client.completions.create(**settings, prompt=PROMPT, max_tokens=0).choices
    ids = encode_prompt(model.tokenizer, PROMPT, True)
    expectations = token_expectations(model.net, ids, model.tokenizer.vocab_size)
    assert model.eot_first and scored.text == PROMPT and scored.finish_reason == "length"
    assert scored.logprobs.token_logprobs == pytest.approx(
        [-each.nats for each in expectations], 1e-4
    )
    assert "".join(scored.logprobs.tokens) == PROMPT
    for offset, token in zip(scored.logprobs.text_offset, scored.logprobs.tokens, strict=True):
        assert PROMPT[offset:].startswith(token)
    (generated,) = client.completions.create(**settings, prompt=ids, max_tokens=3).choices
    logprobs = generated.logprobs
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) > len(ids)
    assert logprobs.token_logprobs[1 : len(ids)] == scored.logprobs.token_logprobs


def test_echo_joins_characters_of_several_tokens(folder: Path) -> None:
    text, tokenizer = "Hello 😀 café مرحبا", GPT2Tokenizer()
    model = replace(load(folder), tokenizer=tokenizer)
    job = CompletionJob(CompletionRequest(model="x", echo=True), 10)
    assert job.echo(model, encode_prompt(tokenizer, text, True), True) == (text, None)
