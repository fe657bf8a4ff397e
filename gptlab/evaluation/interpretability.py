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

from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class TokenExpectation:
    """What a model held likely where a token stands."""

    token: int  # that stands there
    probability: float  # of that token
    nats: float  # its surprise, -log of that
    rank: int  # 1: it was the likeliest
    entropy: float  # of all that was expected, in nats: how unsure the model was
    likeliest: list[tuple[int, float]]  # tokens and their probabilities, the likeliest first


@torch.inference_mode()
def token_expectations(
    net: GPT, ids: list[int], vocab_size: int, most: int = 10
) -> list[TokenExpectation]:
    """For each token but the first: what did the model expect there?

    `ids` are at most a token more than the window; `vocab_size` is the tokenizer's, as ids beyond
    it only pad the table. Raises UserError for a model whose training diverged.
    """
    with eval_mode(net):
        logits_TxV = net(to_batch(net, ids[:-1]))[0, :, :vocab_size].float()
    logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
    entropy_T = -(logprobs_TxV.exp() * logprobs_TxV).nan_to_num().sum(dim=-1)
    top = logprobs_TxV.topk(min(most, vocab_size), dim=-1)
    found = []
    for at, token in enumerate(ids[1:]):
        own = logprobs_TxV[at, token]
        pairs = zip(top.indices[at].tolist(), top.values[at].exp().tolist(), strict=True)
        rank = 1 + int((logprobs_TxV[at] > own).sum())
        nats = -float(own)
        found.append(
            TokenExpectation(token, float(own.exp()), nats, rank, float(entropy_T[at]), list(pairs))
        )
    return found


@dataclass
class LogitLens:
    """What the head would say after each layer; row 0 is of the embeddings, before any layer."""

    tokens: list[list[int]]  # the likeliest token, for each row and place in the text
    probabilities: list[list[float]]  # of those
    nats: list[float | None]  # of the tokens that do come, a token; None: there is but one


@torch.inference_mode()
def logit_lens(net: GPT, ids: list[int], vocab_size: int) -> LogitLens:
    """Reads each layer's output with the final norm and the head, as if it were the last.

    The last row is what the model says. nostalgebraist (2020), "interpreting GPT: the logit lens".
    Arguments as of `expectations`; `ids` are at most the window.
    """
    states: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        for module in (*net.blocks, net.final_norm)
    ]
    lens = LogitLens([], [], [])
    with eval_mode(net):
        try:
            net.hidden(to_batch(net, ids))
        finally:
            for hook in hooks:
                hook.remove()
        for x_1xTxD in states:
            logits_TxV = net.head(net.final_norm(x_1xTxD))[0, :, :vocab_size].float()
            logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
            best = logprobs_TxV.max(dim=-1)
            lens.tokens.append(best.indices.tolist())
            lens.probabilities.append(best.values.exp().tolist())
            after = logprobs_TxV[range(len(ids) - 1), ids[1:]]
            lens.nats.append(-float(after.mean()) if len(ids) > 1 else None)
    return lens


@torch.inference_mode()
def nearest_tokens(
    net: GPT, token: int, vocab_size: int, most: int = 10
) -> list[tuple[int, float]]:
    """The tokens whose embeddings point the same way, with the cosine of the angle; not itself."""
    table_VxD = nn.functional.normalize(net.embedding.weight[:vocab_size].float(), dim=-1)
    cosine_V = table_VxD @ table_VxD[token]
    cosine_V[token] = -2  # less than any
    top = cosine_V.topk(min(most, vocab_size - 1))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def plot_logit_lens(
    lens: LogitLens, words: list[list[str]], text: list[str], title: str
) -> "Figure":
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


def plot_surprise(found: list[TokenExpectation], text: list[str], title: str) -> "Figure":
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
def eval_mode(net: GPT) -> Iterator[None]:
    """Within, without dropout."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def to_batch(net: GPT, ids: list[int]) -> Tensor:
    return torch.tensor([ids], device=next(net.parameters()).device)


def check_finite_logits(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits


@torch.no_grad()
def attention_maps(net: GPT, ids: list[int]) -> list[Tensor]:
    """For each layer (H, T, T): how much each token (row) takes from each token (column).

    Weights as without dropout. `ids` are at most `net.config.window` tokens.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(module.weights(inputs[0])[0].float().cpu())

    hooks = [block.attention.register_forward_pre_hook(keep) for block in net.blocks]
    was_training = net.training
    net.eval()
    try:
        net.hidden(torch.tensor([ids], device=next(net.parameters()).device))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def plot_attention(weights_HxTxT: Tensor, tokens: list[str], title: str) -> "Figure":
    """One layer's heads side by side; row: the token that looks, column: where it looks."""
    from matplotlib.figure import Figure

    heads, length, _ = weights_HxTxT.shape
    columns = min(heads, 4)
    rows = -(-heads // columns)
    pitch = length + 2  # two cells apart
    # One image of all heads, labelled at its edges alone: axes of their own take seconds to draw.
    tiled = torch.full((rows * pitch - 2, columns * pitch - 2), torch.nan)
    figure = Figure(figsize=(2.6 * columns + 0.8, 2.6 * rows + 1), dpi=80)
    axes = figure.subplots()
    for head in range(heads):
        top, left = head // columns * pitch, head % columns * pitch
        # Square roots, or all but the strongest weights would look alike.
        tiled[top : top + length, left : left + length] = weights_HxTxT[head].sqrt()
        place = {"ha": "right", "va": "top", "color": "white", "fontsize": 8}
        axes.text(left + length - 0.7, top - 0.2, f"head {head}", **place)
    axes.imshow(tiled.numpy(), vmin=0, vmax=1, cmap="viridis")
    columns_at = [column * pitch + at for column in range(columns) for at in range(length)]
    rows_at = [row * pitch + at for row in range(rows) for at in range(length)]
    to_the_letter = {"fontsize": 6, "parse_math": False}  # a token may be $$
    axes.set_xticks(columns_at, tokens * columns, rotation=90, **to_the_letter)
    axes.set_yticks(rows_at, tokens * rows, **to_the_letter)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)
    figure.subplots_adjust(left=0.6 / figure.get_figwidth(), right=0.99, top=0.95, bottom=0.12)
    return figure
