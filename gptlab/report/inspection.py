"""Inspect a trained model for the report: surprise, logit lens, attention, similar tokens."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from gptlab.config.schema import SamplingConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import decode
from gptlab.evaluation import interpretability
from gptlab.evaluation.interpretability import longest_tokens, token_label
from gptlab.evaluation.interpretability_plots import plot_attention
from gptlab.generation.engine import generate_samples, start_text
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.report.plots import ThemedPlot, plot_in_themes
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

MAX_TOKENS = 60
MAX_LENS_TOKENS = 14  # a wider logit lens or attention map cannot be read
MAX_NEIGHBOR_ROWS = 6


class ShadedToken(NamedTuple):
    """A token to show with a background; shade 0 is none, 1 is full."""

    text: str
    shade: float = 0.0
    tooltip: str = ""


class ModelInspection(NamedTuple):
    """The report's tables and plots of one model on a text that it generated."""

    text: list[ShadedToken]  # darker where the model was more surprised
    most_surprising: list[list[str]]  # token, probability, nats, alternatives
    lens_tokens: list[str]
    lens: list[tuple[str, list[ShadedToken], str]]  # layer, predictions, nats; last layer first
    attention: list[ThemedPlot]  # one per layer
    neighbors: list[list[str]]  # token, similar tokens


def inspect_run(folder: Path, prompt: str | None, seed: int = 0) -> ModelInspection:
    """Inspect a run's preferred checkpoint on a text it generates after `prompt`.

    Raises UserError if the run has no language model.
    """
    checkpoint = run_dir.preferred_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder.name}: has no checkpoint")
    model = load_model(checkpoint)
    if model.net.config.n_classes:
        raise UserError(f"{folder.name}: is a classifier and cannot generate text")
    match = match_prompt(model.tokenizer, prompt or "")
    if match.note:
        print_status(f"{folder.name}: {match.note}")
    start = start_text(match.ids, model.tokenizer.eot, model.eot_first)
    sampling = SamplingConfig(top_p=0.95)
    request = GenerationRequest(model.net, model.tokenizer, start, sampling, 1, MAX_TOKENS, seed)
    ids = generate_samples(request)[0].tokens[: min(MAX_TOKENS, model.net.config.window)]
    if len(ids) < 3:
        raise UserError(f"{folder.name}: generated too few tokens ({len(ids)}) to inspect")
    lens_ids = ids[:MAX_LENS_TOKENS]
    words = [token_label(model.tokenizer, token) for token in lens_ids]
    attention = interpretability.attention_maps(model.net, lens_ids)
    return ModelInspection(
        *shade_by_surprise(model, ids),
        words,
        logit_lens_rows(model, lens_ids),
        [attention_plot(weights, words) for weights in attention],
        neighbor_rows(model, ids),
    )


def attention_plot(weights_HxTxT: Tensor, words: list[str]) -> ThemedPlot:
    return plot_in_themes(lambda _: plot_attention(weights_HxTxT, words, ""), "png")


def shade_by_surprise(
    model: LoadedModel, ids: list[int]
) -> tuple[list[ShadedToken], list[list[str]]]:
    """Return the text shaded by surprise, and table rows of its five most surprising tokens."""
    label = partial(token_label, model.tokenizer)
    text, rows = [ShadedToken(decode(model.tokenizer, ids[:1]))], []
    vocab_size = model.tokenizer.vocab_size
    for token in interpretability.token_expectations(model.net, ids, vocab_size, top_k=5):
        likeliest = ", ".join(f"{label(t)} {p:.0%}" for t, p in token.likeliest)
        tooltip = f"{token.probability:.1%}, rank {token.rank}; expected: {likeliest}"
        word = decode(model.tokenizer, [token.token])
        text.append(ShadedToken(word, min(token.nats / 8, 1), tooltip))
        cells = [label(token.token), f"{token.probability:.2%}", f"{token.nats:.2f}", likeliest]
        rows.append((token.nats, cells))
    rows.sort(key=lambda row: -row[0])
    return text, [cells for _, cells in rows[:5]]


def logit_lens_rows(model: LoadedModel, ids: list[int]) -> list[tuple[str, list[ShadedToken], str]]:
    lens = interpretability.logit_lens(model.net, ids, model.tokenizer.vocab_size)
    rows = []
    layers = zip(lens.tokens, lens.probabilities, lens.nats, strict=True)
    for layer, (tokens, probabilities, nats) in enumerate(layers):
        predictions = [
            ShadedToken(token_label(model.tokenizer, token), p, f"{p:.1%}")
            for token, p in zip(tokens, probabilities, strict=True)
        ]
        name = f"layer {layer - 1}" if layer else "embeddings"
        rows.append((name, predictions, "–" if nats is None else f"{nats:.2f}"))
    return rows[::-1]


def neighbor_rows(model: LoadedModel, ids: list[int]) -> list[list[str]]:
    """Return table rows of the longest tokens in a text, each with its most similar tokens."""
    label, vocab_size = partial(token_label, model.tokenizer), model.tokenizer.vocab_size
    rows = []
    for token in longest_tokens(model.tokenizer, ids, MAX_NEIGHBOR_ROWS):
        near = interpretability.nearest_tokens(model.net, token, vocab_size, top_k=6)
        rows.append([label(token), ", ".join(f"{label(t)} {cosine:.2f}" for t, cosine in near)])
    return rows
