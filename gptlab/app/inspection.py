"""Inspect a model on a text: attention, logit lens, surprise, nearest tokens, classes.

Each function returns plain values for the page, for at most MAX_TOKENS tokens of the text.
"""

from typing import Any

import torch

from gptlab.app.streaming import require_generator, round_probability
from gptlab.data.tokenizer import token_text
from gptlab.evaluation import interpretability
from gptlab.generation.engine import encode_prompt
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError

MAX_TOKENS = 96  # more do not fit the page
MAX_NEAREST_TOKENS = 8  # tokens whose nearest tokens are listed


def encode_text(model: LoadedModel, text: str, unknown: str) -> list[int]:
    """Return the first tokens of the text; raises UserError for a text the model cannot read."""
    require_generator(model)
    ids = encode_prompt(model.tokenizer, text, model.eot_first, unknown)
    return ids[: min(MAX_TOKENS, model.net.config.window)]


def token_texts(model: LoadedModel, ids: list[int]) -> list[str]:
    return [token_text(model.tokenizer, id) for id in ids]


def inspect_attention(model: LoadedModel, text: str, unknown: str, layer: int) -> dict[str, Any]:
    """Return one layer's attention weights in thousandths: per head a flat T × T table, where rows
    attend to columns. Raises UserError for a layer that the model does not have."""
    num_layers = len(model.net.blocks)
    if layer >= num_layers:
        raise UserError(f"layer={layer}: must be 0 to {num_layers - 1} for this model")
    ids = encode_text(model, text, unknown)
    weights_HxTxT = interpretability.attention_maps(model.net, ids)[layer]
    heads = (1000 * weights_HxTxT).round().to(torch.int16).flatten(1).tolist()
    tokens = token_texts(model, ids)
    return {"tokens": tokens, "layer": layer, "num_layers": num_layers, "heads": heads}


def inspect_logit_lens(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Return the next token each layer would predict; layer 0 is the embedding."""
    ids = encode_text(model, text, unknown)
    lens = interpretability.logit_lens(model.net, ids, model.tokenizer.vocab_size)
    layers = []
    for top, probabilities, nats in zip(lens.tokens, lens.probabilities, lens.nats, strict=True):
        rounded = [round(p, 4) for p in probabilities]
        predictions = token_texts(model, top)
        layers.append({"predictions": predictions, "probabilities": rounded, "nats": nats})
    return {"tokens": token_texts(model, ids), "layers": layers}


def inspect_surprise(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Return each token's probability, except the first one's, and the most likely alternatives."""
    ids = encode_text(model, text, unknown)
    tokenizer = model.tokenizer
    tokens = [
        {
            "token": token_text(tokenizer, each.token),
            "probability": round_probability(each.probability),
            "rank": each.rank,
            "entropy": round(each.entropy, 4),
            "alternatives": [
                [token_text(tokenizer, id), round_probability(p)] for id, p in each.likeliest
            ],
        }
        for each in interpretability.token_expectations(model.net, ids, tokenizer.vocab_size)
    ]
    return {"first": token_text(tokenizer, ids[0]), "tokens": tokens}


def inspect_nearest_tokens(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Return the tokens with the most similar embeddings, and their cosine similarity, for the
    longest tokens of the text."""
    tokenizer, tokens = model.tokenizer, []
    ids = encode_text(model, text, unknown)
    for id in interpretability.longest_tokens(tokenizer, ids, MAX_NEAREST_TOKENS):
        nearest = interpretability.nearest_tokens(model.net, id, tokenizer.vocab_size, top_k=8)
        words = [[token_text(tokenizer, other), round(cosine, 4)] for other, cosine in nearest]
        tokens.append({"token": token_text(tokenizer, id), "nearest": words})
    return {"tokens": tokens}


def classify(model: LoadedModel, text: str, unknown: str) -> dict[str, Any]:
    """Return the probability of each class, the most likely first; raises UserError for a model
    that is not a classifier."""
    from gptlab.evaluation.classification import (  # imports Lightning
        class_names,
        match_message,
        rank_classes,
    )

    if not class_names(model):
        raise UserError("this model generates text and is no classifier; use /api/generate")
    ids = match_message(model.tokenizer, text, unknown).ids
    ranking, num_tokens = rank_classes(model, ids), len(ids)
    return {
        "classes": [{"name": name, "probability": round(p, 6)} for p, name in ranking],
        "tokens": num_tokens,
        "tokens_read": min(num_tokens, model.net.config.window),
        "step": model.step,
    }
