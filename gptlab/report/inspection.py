"""A model's inside as HTML: what it expects, where it looks, which tokens it holds alike."""

from pathlib import Path

from gptlab.config.schema import SamplingConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation import interpretability
from gptlab.evaluation.interpretability import longest_tokens, token_label
from gptlab.evaluation.interpretability_plots import plot_attention
from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.report.html import Html, element, picture, table
from gptlab.report.plots import render
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

TEXT = 60  # tokens that are looked at
FEW = 14  # of them for which layers and heads are shown: more cannot be read
WORDS = 6  # whose neighbours are told


def look(folder: Path, prompt: str | None, seed: int = 0) -> Html:
    """All of a run's best model, for a text that it writes, from `prompt` on.

    Raises UserError where there is no model that writes, or the prompt cannot be spelled.
    """
    checkpoint = run_dir.preferred_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder.name}: has no checkpoint")
    model = load_model(checkpoint)
    if model.net.config.n_classes:
        raise UserError(f"{folder.name}: tells classes apart, and writes nothing")
    net, tokenizer = model.net, model.tokenizer
    begin = encode_prompt(tokenizer, prompt or "", model.eot_first)
    request = GenerationRequest(
        net, tokenizer, begin, SamplingConfig(top_p=0.95), max_new_tokens=TEXT, seed=seed
    )
    (sample,) = generate_samples(request)
    ids = sample.tokens[: min(TEXT, net.config.window)]
    if len(ids) < 3:
        raise UserError(f"{folder.name}: wrote too little to look at")
    few = ids[:FEW]
    return Html("").join(
        [
            element("h4", "What did it expect?"),
            surprise(model, ids),
            element("h4", "The next token, as each layer has it"),
            lens(model, few),
            element("h4", "Where each head looks"),
            heads(model, few),
            element("h4", "Tokens whose embeddings point the same way"),
            alike(model, ids),
        ]
    )


def word(model: LoadedModel, token: int) -> str:
    return token_label(model.tokenizer, token)


def surprise(model: LoadedModel, ids: list[int]) -> Html:
    """The text, each token the darker the more it surprised; and the most surprising ones."""
    found = interpretability.token_expectations(model.net, ids, model.tokenizer.vocab_size, most=5)
    parts = [element("span", decode(model.tokenizer, ids[:1]), class_="token")]
    for each in found:
        told = ", ".join(f"{word(model, t)} {p:.0%}" for t, p in each.likeliest)
        title = f"{each.probability:.1%}, rank {each.rank}; expected: {told}"
        shade = f"--much: {min(each.nats / 8, 1):.2f}"
        text = decode(model.tokenizer, [each.token])
        parts.append(element("span", text, class_="token", style=shade, title=title))
    most = sorted(found, key=lambda each: -each.nats)[:5]
    rows = [
        [
            *(word(model, each.token), f"{each.probability:.2%}", f"{each.nats:.2f}"),
            ", ".join(f"{word(model, t)} {p:.0%}" for t, p in each.likeliest),
        ]
        for each in most
    ]
    return element("p", *parts, class_="text") + table(
        ["the most surprising", "probability", "nats", "expected instead"], rows
    )


def lens(model: LoadedModel, ids: list[int]) -> Html:
    """A row a layer, the last on top; the more certain, the darker."""
    found = interpretability.logit_lens(model.net, ids, model.tokenizer.vocab_size)
    names = ["embeddings", *(f"layer {n}" for n in range(len(found.tokens) - 1))]
    rows = []
    for name, tokens, probabilities, nats in reversed(
        list(zip(names, found.tokens, found.probabilities, found.nats, strict=True))
    ):
        cells = [
            element("td", word(model, t), style=f"--much: {p:.2f}", title=f"{p:.1%}", class_="lens")
            for t, p in zip(tokens, probabilities, strict=True)
        ]
        told = "–" if nats is None else f"{nats:.2f}"
        rows.append(element("tr", element("th", name), *cells, element("td", told)))
    heading = [element("th", word(model, token)) for token in ids]
    heading = element("tr", element("th", "after"), *heading, element("th", "nats a token"))
    return element("div", element("table", heading, *rows, class_="lens"), class_="wide")


def heads(model: LoadedModel, ids: list[int]) -> Html:
    """A picture a layer."""
    words = [word(model, token) for token in ids]
    parts = Html("")
    for layer, weights in enumerate(interpretability.attention_maps(model.net, ids)):
        forms = render(lambda _, w=weights: plot_attention(w, words, ""), "png")
        shown = picture(forms, f"attention weights of layer {layer}, all heads")
        image = element("div", shown, class_="wide")
        parts += element("details", element("summary", f"layer {layer}"), image, open=layer == 0)
    return parts


def alike(model: LoadedModel, ids: list[int]) -> Html:
    """The neighbours of some of the text's longest tokens."""
    rows = []
    for token in longest_tokens(model.tokenizer, ids, WORDS):
        near = interpretability.nearest_tokens(model.net, token, model.tokenizer.vocab_size, most=6)
        rows.append([word(model, token), ", ".join(f"{word(model, t)} {c:.2f}" for t, c in near)])
    return table(["token", "nearest, with the cosine"], rows)
