"""Looks inside a model as it reads a text: answers of plain values for the page to draw."""

from typing import Any

import torch

from gptlab.app.generate_stream import ready, word
from gptlab.evaluation.classification import class_names, rank_classes
from gptlab.evaluation.interpretability import (
    attention_maps,
    logit_lens,
    longest_tokens,
    token_expectations,
)
from gptlab.evaluation.interpretability import nearest_tokens as alike
from gptlab.generation.engine import encode_prompt
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError

SHOWN = 96  # tokens: more cannot be read
NAMED = 8  # tokens whose neighbours are told


def tokens_of(model: LoadedModel, text: str, unknown: str) -> list[int]:
    """The beginning of the text, as many tokens as are shown and the model sees.

    Raises UserError for a text without any.
    """
    ready(model, unknown)
    ids = encode_prompt(model.tokenizer, text, model.eot_first)
    return ids[: min(SHOWN, model.net.config.window)]


def words(model: LoadedModel, ids: list[int]) -> list[str]:
    return [word(model.tokenizer, id) for id in ids]


def heads(model: LoadedModel, text: str, unknown: str, layer: int) -> dict[str, Any]:
    """Where the heads of a layer look: for each a T × T table of thousandths, row by row: what
    each token takes from those before it. Raises UserError for a layer that there is not."""
    layers = len(model.net.blocks)
    if layer >= layers:
        raise UserError(f"layer {layer}: the model has {layers}, counted from 0")
    ids = tokens_of(model, text, unknown)
    weights_HxTxT = attention_maps(model.net, ids)[layer]
    thousandths = (1000 * weights_HxTxT).round().to(torch.int16).flatten(1).tolist()
    return {"tokens": words(model, ids), "layer": layer, "layers": layers, "heads": thousandths}


def lens(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """What the model would say next after each layer, for each token of the text."""
    ids = tokens_of(model, text, unknown)
    found = logit_lens(model.net, ids, model.tokenizer.vocab_size)
    layers = [
        {"words": words(model, row), "probabilities": [round(p, 4) for p in chances], "nats": nats}
        for row, chances, nats in zip(found.tokens, found.probabilities, found.nats, strict=True)
    ]
    return {"tokens": words(model, ids), "layers": layers}


def surprises(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Each token of a text but the first with what the model expected there."""
    ids = tokens_of(model, text, unknown)
    found = token_expectations(model.net, ids, model.tokenizer.vocab_size) if len(ids) > 1 else []
    expected = [
        {
            "token": word(model.tokenizer, each.token),
            "probability": float(f"{each.probability:.4g}"),
            "rank": each.rank,
            "entropy": round(each.entropy, 4),
            "likeliest": [
                [word(model.tokenizer, id), float(f"{p:.4g}")] for id, p in each.likeliest
            ],
        }
        for each in found
    ]
    return {"first": word(model.tokenizer, ids[0]), "tokens": expected}


def neighbours(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Of the longest words of a text: the tokens whose embeddings point the same way, each with the
    cosine of the angle between them."""
    ids = tokens_of(model, text, unknown)
    told = []
    for id in longest_tokens(model.tokenizer, ids, NAMED):
        near = alike(model.net, id, model.tokenizer.vocab_size, most=8)
        named = [[word(model.tokenizer, other), round(cosine, 4)] for other, cosine in near]
        told.append({"token": word(model.tokenizer, id), "neighbours": named})
    return {"tokens": told}


def classes(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """How likely each class is, the likeliest first; raises UserError for a model without any."""
    if not class_names(model):
        raise UserError("this model is not a classifier; use /api/write")
    ranked = rank_classes(model, text, unknown)
    length, window = len(model.tokenizer.encode(text.strip())), model.net.config.window
    return {
        "classes": [{"name": name, "probability": round(p, 6)} for p, name in ranked],
        "tokens": length,
        "read": min(length, window),
        "step": model.step,
    }
