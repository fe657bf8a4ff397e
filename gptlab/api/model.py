"""A trained model from Python: generate, score texts, look inside."""

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from gptlab.config.cli import compose_config
from gptlab.config.schema import GenerateConfig, SamplingConfig
from gptlab.config.validation import validate_config
from gptlab.data.prompt_matching import PromptMatch, match_prompt
from gptlab.data.tokenizer import decode, token_text
from gptlab.evaluation.classification import class_names, match_message, rank_classes
from gptlab.evaluation.interpretability import (
    TokenExpectation,
    attention_maps,
    text_expectations,
)
from gptlab.generation.engine import (
    apply_template,
    generate_samples,
    request_from_config,
    start_text,
)
from gptlab.generation.quantize import load_on_device
from gptlab.generation.sample import Sample
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import count_parameters
from gptlab.model.loss import bits_per_byte, perplexity
from gptlab.utils import run_dir
from gptlab.utils.console import plural, print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError, did_you_mean, one_line_errors
from gptlab.utils.plugins import trust


def load(
    run: str | PathLike[str] = "latest",
    run_root: str | PathLike[str] = "runs",
    *,
    accelerator: str = "auto",
    unknown: str = "skip",
    weight_dtype: str = "float32",
    plugins: Iterable[str] = (),
) -> "Model":
    """Load `latest`, a run folder (its best checkpoint), a checkpoint file, or an exported folder.

    Words that the model never saw are skipped, with a line that names them, or raise UserError with
    `unknown="error"`. `weight_dtype` may be bfloat16 or int8: faster, less exact. `plugins` names
    packages that the model may import parts from. Raises UserError if there is no such model.
    """
    config = GenerateConfig(
        run=str(run),
        run_root=str(run_root),
        accelerator=accelerator,
        unknown=unknown,
        weight_dtype=weight_dtype,
    )
    validate_config(config)
    trust(plugins)
    with one_line_errors("generate"):
        device = resolve_accelerator(accelerator, "accelerator", operations=0)
        path = run_dir.find_checkpoint(config.run, config.run_root)
        model = Model(**vars(load_on_device(path, device, weight_dtype)))
    model.unknown = unknown
    return model


class GeneratedText(str):
    """A generated text with its prompt, or the response to an instruction; prints as its text."""

    new_text: str  # without the prompt
    token_probabilities: list[tuple[str, float]]  # of the new tokens, before any sampling setting
    finish_reason: str  # end_of_text, stop or length

    @classmethod
    def from_sample(cls, prompt: str, sample: Sample) -> "GeneratedText":
        text = cls(prompt + sample.text)
        tokenizer = sample.stream.tokenizer
        pairs = zip(sample.predicted_tokens, sample.logprobs, strict=True)
        text.new_text, text.finish_reason = sample.text, str(sample.finish_reason)
        text.token_probabilities = [
            (token_text(tokenizer, token), math.exp(logprob)) for token, logprob in pairs
        ]
        return text


class Model(LoadedModel):
    """A trained model, from `gptlab.load`.

    `net` is the decoder (a torch module), `tokenizer` its tokenizer, `config` the settings of its
    run, `step` and `path` those of its checkpoint. In shapes: L layers, H heads, T tokens.
    """

    unknown = "skip"  # words that the model never saw; `error` refuses them

    def __repr__(self) -> str:
        config = self.net.config
        return (
            f"Model({str(self.path)!r}: step {self.step:,}, {config.n_layer} layers, "
            f"{config.n_head} heads, width {config.d_model}, context {config.window}, "
            f"{self.tokenizer.vocab_size:,} tokens, {count_parameters(self.net):,} parameters)"
        )

    def generate(
        self,
        prompt: str = "",
        n: int = 1,
        *,
        max_new_tokens: int = GenerateConfig.max_new_tokens,
        seed: int = GenerateConfig.seed,
        stop: str | list[str] | None = None,
        input: str | None = None,
        sampling: str = "top_p",
        **settings: float | None,
    ) -> list[GeneratedText]:
        """Generate `n` texts that begin with the prompt, as `python generate.py` does.

        `sampling` is a choice of conf/sampling; `settings` change its keys: temperature, top_k,
        top_p, min_p, repetition_penalty, no_repeat_ngram, beams, length_penalty. `input` is an
        instruction's input. Raises UserError for a classifier or an invalid setting.
        """
        self._require_language_model()
        config = GenerateConfig(
            num_samples=n,
            max_new_tokens=max_new_tokens,
            seed=seed,
            stop=stop,
            input=input,
            sampling=sampling_config(sampling, settings),
        )
        validate_config(config)
        templated = apply_template(config, self, prompt)
        ids = self.encode(templated)
        start = start_text(ids, self.tokenizer.eot, self.eot_first)
        request = replace(request_from_config(config, self, start), logprobs=True)
        with one_line_errors("generate"):
            samples = generate_samples(request)
        shown = prompt if templated == prompt and ids else ""
        return [GeneratedText.from_sample(shown, sample) for sample in samples]

    def loss(self, text: str) -> float:
        """Return the mean loss of a text in nats per token.

        A text longer than the context is scored in consecutive windows. Raises UserError for a
        classifier, and for a text of fewer than two tokens.
        """
        expectations = self._expectations(text)
        return sum(each.nats for each in expectations) / len(expectations)

    def perplexity(self, text: str) -> float:
        """Return exp(loss): among how many equally likely tokens the model seems to choose."""
        return perplexity(self.loss(text))

    def bits_per_byte(self, text: str) -> float:
        """Return the loss in bits per UTF-8 byte, comparable between tokenizers."""
        expectations = self._expectations(text)
        size = sum(len(self.tokenizer.token_bytes(each.token)) for each in expectations)
        return bits_per_byte(sum(each.nats for each in expectations), size)

    def token_probabilities(self, text: str) -> list[tuple[str, float]]:
        """Return each token of a text with its probability, given the tokens before it.

        The first token is left out unless the model's texts start with end-of-text.
        """
        pairs = ((each.token, each.probability) for each in self._expectations(text))
        return [(token_text(self.tokenizer, token), probability) for token, probability in pairs]

    def tokens(self, text: str) -> list[str]:
        """Return the T tokens that the model reads for a text, with its end-of-text."""
        return [token_text(self.tokenizer, id) for id in self._read(text)]

    def attention(self, text: str) -> Tensor:
        """Return the attention weights (L, H, T, T) on `tokens(text)`: each row sums to 1.

        Raises UserError for a text longer than the context.
        """
        ids = self._read(text)
        if len(ids) > (window := self.net.config.window):
            raise UserError(
                f"text: has {plural(len(ids), 'token')}; the model sees {window:,} at once"
            )
        return torch.stack(attention_maps(self.net, ids))

    def classify(self, text: str) -> dict[str, float]:
        """Return the probability of each class, the most likely first.

        Raises UserError for a model that is no classifier.
        """
        if not class_names(self):
            raise UserError(f"{self.path}: is not a classifier; use model.generate(prompt)")
        message = match_message(self.tokenizer, text, self.unknown)
        ranked = rank_classes(self, self._show_note(message))
        return {name: probability for probability, name in ranked}

    def encode(self, text: str) -> list[int]:
        """Convert a text to token ids."""
        return self._show_note(match_prompt(self.tokenizer, text, self.unknown))

    def decode(self, ids: list[int]) -> str:
        """Convert token ids to text."""
        return decode(self.tokenizer, ids)

    def _read(self, text: str) -> list[int]:
        return start_text(self.encode(text), self.tokenizer.eot, self.eot_first)

    def _show_note(self, match: PromptMatch) -> list[int]:
        """Print what was skipped; return the token ids."""
        if match.note:
            print_status(match.note)
        return match.ids

    def _expectations(self, text: str) -> list[TokenExpectation]:
        self._require_language_model()
        found = text_expectations(self.net, self._read(text), self.tokenizer.vocab_size)
        if not found:
            raise UserError("text: too short; write at least two tokens")
        return found

    def _require_language_model(self) -> None:
        if self.net.config.n_classes:
            raise UserError(f"{self.path}: is a classifier; use model.classify(text)")


@cache
def sampling_choice(name: str) -> SamplingConfig:
    return compose_config("generate", [f"sampling={name}"]).sampling


def sampling_config(choice: str, settings: dict[str, Any]) -> SamplingConfig:
    """Return a choice of conf/sampling with other values for some keys; raises UserError."""
    known = [field.name for field in fields(SamplingConfig)]
    for name in settings:
        if name not in known:
            raise UserError(f"{name}: unknown setting{did_you_mean(name, known)}")
    return replace(sampling_choice(choice), **settings)
