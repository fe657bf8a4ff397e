"""The bodies of requests, validated by pydantic.

Default, help and bounds of a setting are those in gptlab/config/schema.py; SERVER_LIMITS keep one
request from occupying the server. The page builds its form from `form_fields`.
"""

from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from gptlab.config.schema import GenerateConfig, SamplingConfig, field_info

MAX_TEXT = 100_000  # characters of a prompt or a text
SERVER_LIMITS = {
    "num_samples": 8,
    "seed": 2**53,
    "sampling.temperature": 100,
    "sampling.top_k": 1_000_000,
    "sampling.repetition_penalty": 100,
    "sampling.no_repeat_ngram": 1000,
    "sampling.beams": 16,
}


def setting(key: str) -> Any:
    """Return a pydantic field with default, help and bounds of a key of generate.py."""
    info = field_info(key, "generate")
    pattern = f"^({'|'.join(info.choices)})$" if info.choices else None
    high = SERVER_LIMITS.get(key, info.high)
    return Field(info.default, ge=info.low, le=high, pattern=pattern, description=info.help)


class RequestModel(BaseModel):
    """Refuse unknown fields, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


sampling_fields: dict[str, Any] = {
    each.name: (each.type, setting(f"sampling.{each.name}")) for each in fields(SamplingConfig)
}
sampling_fields["__doc__"] = "How the next token is chosen. null: not used."
SamplingRequest = create_model("SamplingRequest", __base__=RequestModel, **sampling_fields)


class ModelRequest(RequestModel):
    """Choose a model by the names of its run and checkpoint."""

    run: str | None = Field(None, max_length=300, description="name of a run; null: the default")
    checkpoint: str | None = Field(
        None, max_length=100, description="best, last, step_N or epoch_N; null: the best"
    )


class GenerateRequest(ModelRequest):
    """Generate samples from a prompt."""

    prompt: str = Field("", max_length=MAX_TEXT, description="start of the text")
    input: str | None = Field(None, max_length=MAX_TEXT, description="input of an instruction")
    template: str = setting("template")
    num_samples: int = setting("num_samples")
    max_new_tokens: int = setting("max_new_tokens")
    stop: list[str] = Field([], max_length=8, description="end a sample at one of these texts")
    seed: int = setting("seed")
    unknown: str = setting("unknown")
    num_alternatives: int = Field(10, ge=0, le=20, description="likeliest alternatives per token")
    sampling: SamplingRequest = SamplingRequest()  # type: ignore[valid-type]  # made from the schema

    def to_config(self, max_new_tokens: int) -> GenerateConfig:
        """Return the configuration generate.py would use, with the server's token limit."""
        return GenerateConfig(
            prompt=self.prompt,
            template=self.template,
            input=self.input or None,
            num_samples=self.num_samples,
            max_new_tokens=min(self.max_new_tokens, max_new_tokens),
            stop=[text for text in self.stop if text],
            seed=self.seed,
            unknown=self.unknown,
            sampling=SamplingConfig(**self.model_dump()["sampling"]),
        )


class TextRequest(ModelRequest):
    """Inspect the model on a text."""

    text: str = Field(max_length=MAX_TEXT)
    unknown: str = setting("unknown")


class AttentionRequest(TextRequest):
    layer: int = Field(0, ge=0, le=1000)


def form_fields(sampling: SamplingConfig, max_new_tokens: int) -> list[dict[str, Any]]:
    """Describe the numbers of the page's form: slider, help, and start value (null: not used)."""
    form = []
    for key in ("num_samples", "max_new_tokens", *(f"sampling.{f.name}" for f in fields(sampling))):
        info, name = field_info(key, "generate"), key.removeprefix("sampling.")
        if info.slider is None:
            continue
        low, high, step = info.slider
        value = getattr(sampling, name, info.default)
        if name == "max_new_tokens":
            high, value = min(high, max_new_tokens), min(value, max_new_tokens)
        help = info.help.removesuffix("; null: off")  # the form has a checkbox instead
        form.append(
            {"name": name, "minimum": low, "maximum": high, "step": step, "help": help}
            | {"value": value, "optional": info.default is None}
        )
    return form
