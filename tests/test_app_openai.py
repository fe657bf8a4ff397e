"""OpenAI's own client, at the page's server."""

from pathlib import Path

import openai
import pytest

from tests.serving import PROMPT, Server, by_hand, model_of, run_of

pytest_plugins = ["tests.serving"]


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
    assert all(len(each) == 3 for each in told.top_logprobs)
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
    tokens = model_of(folder).tokenizer.encode(PROMPT)
    both = client.completions.create(**settings, prompt=[PROMPT, "One day"])
    assert both.choices[0].text == text and both.choices[1].index == 1
    if not model_of(folder).eot_first:
        assert client.completions.create(**settings, prompt=tokens).choices[0].text == text
    settings = {"model": run, "prompt": PROMPT, "max_tokens": 8, "seed": 2, "logprobs": 0}
    best = client.completions.create(**settings, best_of=4, top_p=0.9).choices
    samples = by_hand(model_of(folder), n=4, seed=2, max_new_tokens=8)
    assert [choice.text for choice in best] == [max(samples, key=lambda s: s.likelihood).text]


def test_openais_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no such run"):
        client.completions.create(model="nope", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="vocabulary lacks"):
        client.completions.create(model="gptlab", prompt="ß", stream=True)
    with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
        client.completions.create(model="gptlab", prompt=PROMPT, presence_penalty=1.0)
