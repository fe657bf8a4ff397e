"""What a model expects, layer by layer, and which tokens it takes for alike.

Functions of a net and token ids; each runs once over the text, dropout off. Where the heads look is
in attention.py. In shapes, T is the tokens of the text, V the vocabulary, D d_model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gptlab.errors import UserError
from gptlab.model.gpt import GPT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Expected:
    """What a model held likely where a token stands."""

    token: int  # that stands there
    probability: float  # of that token
    nats: float  # its surprise, -log of that
    rank: int  # 1: it was the likeliest
    entropy: float  # of all that was expected, in nats: how unsure the model was
    likeliest: list[tuple[int, float]]  # tokens and their probabilities, the likeliest first


@torch.inference_mode()
def expectations(net: GPT, ids: list[int], vocab_size: int, most: int = 10) -> list[Expected]:
    """For each token but the first: what did the model expect there?

    `ids` are at most a token more than the window; `vocab_size` is the tokenizer's, as ids beyond
    it only pad the table. Raises UserError for a model whose training diverged.
    """
    with at_rest(net):
        logits_TxV = net(as_batch(net, ids[:-1]))[0, :, :vocab_size].float()
    logprobs_TxV = checked(logits_TxV).log_softmax(dim=-1)
    entropy_T = -(logprobs_TxV.exp() * logprobs_TxV).nan_to_num().sum(dim=-1)
    top = logprobs_TxV.topk(min(most, vocab_size), dim=-1)
    found = []
    for at, token in enumerate(ids[1:]):
        own = logprobs_TxV[at, token]
        pairs = zip(top.indices[at].tolist(), top.values[at].exp().tolist(), strict=True)
        rank = 1 + int((logprobs_TxV[at] > own).sum())
        nats = -float(own)
        found.append(
            Expected(token, float(own.exp()), nats, rank, float(entropy_T[at]), list(pairs))
        )
    return found


@dataclass
class Lens:
    """What the head would say after each layer; row 0 is of the embeddings, before any layer."""

    tokens: list[list[int]]  # the likeliest token, for each row and place in the text
    probabilities: list[list[float]]  # of those
    nats: list[float | None]  # of the tokens that do come, a token; None: there is but one


@torch.inference_mode()
def logit_lens(net: GPT, ids: list[int], vocab_size: int) -> Lens:
    """Reads each layer's output with the final norm and the head, as if it were the last.

    The last row is what the model says. nostalgebraist (2020), "interpreting GPT: the logit lens".
    Arguments as of `expectations`; `ids` are at most the window.
    """
    states: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        for module in (*net.blocks, net.final_norm)
    ]
    lens = Lens([], [], [])
    with at_rest(net):
        try:
            net.hidden(as_batch(net, ids))
        finally:
            for hook in hooks:
                hook.remove()
        for x_1xTxD in states:
            logits_TxV = net.head(net.final_norm(x_1xTxD))[0, :, :vocab_size].float()
            logprobs_TxV = checked(logits_TxV).log_softmax(dim=-1)
            best = logprobs_TxV.max(dim=-1)
            lens.tokens.append(best.indices.tolist())
            lens.probabilities.append(best.values.exp().tolist())
            after = logprobs_TxV[range(len(ids) - 1), ids[1:]]
            lens.nats.append(-float(after.mean()) if len(ids) > 1 else None)
    return lens


@torch.inference_mode()
def neighbours(net: GPT, token: int, vocab_size: int, most: int = 10) -> list[tuple[int, float]]:
    """The tokens whose embeddings point the same way, with the cosine of the angle; not itself."""
    table_VxD = nn.functional.normalize(net.embedding.weight[:vocab_size].float(), dim=-1)
    cosine_V = table_VxD @ table_VxD[token]
    cosine_V[token] = -2  # less than any
    top = cosine_V.topk(min(most, vocab_size - 1))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def lens_picture(lens: Lens, words: list[list[str]], text: list[str], title: str) -> "Figure":
    """The lens as a table: a row for each layer, the last on top, coloured by probability.

    `words` are the lens's tokens as they are to be shown, `text` the tokens that were read.
    """
    from matplotlib.figure import Figure

    layers, length = len(words), len(text)
    figure = Figure(figsize=(0.75 * length + 1.5, 0.32 * layers + 1.3), dpi=80)
    axes = figure.subplots()
    image = axes.imshow(lens.probabilities, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    image.axes.invert_yaxis()
    plain = {"fontsize": 7, "parse_math": False, "ha": "center", "va": "center"}
    for layer, row in enumerate(words):
        for at, word in enumerate(row):
            dark = lens.probabilities[layer][at] < 0.6
            axes.text(at, layer, word[:9], color="white" if dark else "black", **plain)
    axes.set_xticks(range(length), text, rotation=45, fontsize=7, parse_math=False)
    names = ["embedding", *(f"layer {number}" for number in range(layers - 1))]
    axes.set_yticks(range(layers), names, fontsize=7)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{title}: the next token, as each layer has it", fontsize=9)
    figure.tight_layout()
    return figure


def surprise_picture(found: list[Expected], text: list[str], title: str) -> "Figure":
    """A bar a token: how surprised the model was, and a dot: how surprised it thought it would
    be. `text` are the tokens after the first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.4 * len(text) + 1.5, 2.6), dpi=80)
    axes = figure.subplots()
    axes.bar(range(len(text)), [each.nats for each in found], color="#56b4e9", label="surprise")
    dots = [each.entropy for each in found]
    axes.plot(range(len(text)), dots, "o", color="#d55e00", markersize=4, label="expected")
    axes.set_xticks(range(len(text)), text, rotation=90, fontsize=7, parse_math=False)
    axes.set_ylabel("nats", fontsize=8)
    axes.legend(fontsize=7)
    axes.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


@contextmanager
def at_rest(net: GPT) -> Iterator[None]:
    """Within, without dropout."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def as_batch(net: GPT, ids: list[int]) -> Tensor:
    return torch.tensor([ids], device=next(net.parameters()).device)


def checked(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits
