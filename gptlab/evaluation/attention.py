"""Where each head looks: attention weights of a text, and a picture of them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gptlab.model.gpt import GPT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def attention(net: GPT, ids: list[int]) -> list[Tensor]:
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


def picture(weights_HxTxT: Tensor, tokens: list[str], title: str) -> "Figure":
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
