"""What a client may ask for: every field with its range and a word of help, checked here.

The page makes its form of the same fields (`settings`), so that both agree.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gptlab.config.schema import GenerateConfig, SamplingConfig

LONGEST = 100_000  # characters of a prompt or a text


def slider(low: float, high: float, step: float) -> dict[str, Any]:
    """The part of a range that is of use, for the page."""
    return {"slider": [low, high, step]}


class RequestModel(BaseModel):
    """A key that is not known is refused, as is anything that is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SamplingRequest(RequestModel):
    """How the next token is chosen. What is null is not in use."""

    temperature: float = Field(
        1.0, ge=0, le=100, description="Above 1 bolder, below 1 safer; 0: always the likeliest.",
        json_schema_extra=slider(0, 2, 0.05),
    )  # fmt: skip
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="Only among so many of the likeliest tokens.",
        json_schema_extra=slider(1, 100, 1),
    )  # fmt: skip
    top_p: float | None = Field(
        None, ge=1e-9, le=1, description="Only the likeliest that together have this probability.",
        json_schema_extra=slider(0.05, 1, 0.01),
    )  # fmt: skip
    min_p: float | None = Field(
        None, ge=0, le=1, description="Only those at least this many times as likely as the best.",
        json_schema_extra=slider(0, 0.5, 0.01),
    )  # fmt: skip
    repetition_penalty: float = Field(
        1.0, ge=0.001, le=100, description="Above 1, what the text has already is less likely.",
        json_schema_extra=slider(0.5, 2, 0.05),
    )  # fmt: skip
    no_repeat_ngram: int | None = Field(
        None, ge=1, le=1000, description="No run of so many tokens comes twice.",
        json_schema_extra=slider(1, 10, 1),
    )  # fmt: skip
    beams: int = Field(
        1, ge=1, le=16, description="Above 1: searches the likeliest whole text; draws nothing.",
        json_schema_extra=slider(1, 8, 1),
    )  # fmt: skip
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="Of a search with beams: above 1, longer texts win.",
        json_schema_extra=slider(0, 2, 0.1),
    )  # fmt: skip


class ModelRequest(RequestModel):
    """A model: of a run by its name, and one of its checkpoints."""

    run: str | None = Field(None, max_length=300, description="Its name; null: the page's first.")
    checkpoint: str | None = Field(
        None, max_length=100, description="best, last, step_N, epoch_N; null: the best there is."
    )


class GenerateRequest(ModelRequest):
    """A text to be written."""

    prompt: str = Field("", max_length=LONGEST, description="How the text begins.")
    input: str | None = Field(
        None, max_length=LONGEST, description="Of an instruction: what it is about."
    )
    template: str = Field("auto", pattern="auto|none|alpaca|plain", description="Of instructions.")
    n: int = Field(
        1, ge=1, le=8, description="Samples, side by side.", json_schema_extra=slider(1, 8, 1)
    )
    max_new_tokens: int = Field(
        200, ge=1, description="Tokens a sample, at most.", json_schema_extra=slider(10, 500, 10)
    )
    stop: list[str] = Field([], max_length=8, description="A sample ends where it has one of them.")
    seed: int = Field(1337, ge=0, le=2**53, description="The same seed, the same text.")
    unknown: str = Field(
        "error", pattern="error|skip", description="Characters the model never saw."
    )
    likeliest: int = Field(10, ge=0, le=20, description="Tokens told beside each that is written.")
    sampling: SamplingRequest = SamplingRequest()


class TextRequest(ModelRequest):
    """A text to be looked at."""

    text: str = Field(max_length=LONGEST)
    unknown: str = Field("error", pattern="error|skip")


class AttentionRequest(TextRequest):
    layer: int = Field(0, ge=0, le=1000)


def as_config(asked: GenerateRequest, most: int) -> GenerateConfig:
    """The same as generate.py's configuration; no more tokens than `most`."""
    return GenerateConfig(
        prompt=asked.prompt,
        template=asked.template,
        input=asked.input or None,
        num_samples=asked.n,
        max_new_tokens=min(asked.max_new_tokens, most),
        stop=[text for text in asked.stop if text],
        seed=asked.seed,
        unknown=asked.unknown,
        sampling=SamplingConfig(**asked.sampling.model_dump()),
    )


def settings(begin: SamplingConfig, most: int) -> list[dict[str, Any]]:
    """The numbers of a form: name, range, step, help, and what it begins with."""
    fields = {name: GenerateRequest.model_fields[name] for name in ("n", "max_new_tokens")}
    found = []
    for name, field in (fields | SamplingRequest.model_fields).items():
        low, high, step = field.json_schema_extra["slider"]
        high = min(high, most) if name == "max_new_tokens" else high
        entry = {"name": name, "low": low, "high": high, "step": step, "help": field.description}
        value = getattr(begin, name, min(field.default, most) if name in fields else None)
        found.append(entry | {"value": value, "optional": field.default is None})
    return found
