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
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    heads, length, _ = weights_HxTxT.shape
    columns = min(heads, 4)
    rows = -(-heads // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows + 0.4), dpi=80, layout="constrained")
    for head, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if head >= heads:
            axes.set_axis_off()
            continue
        # Square roots, or all but the strongest weights would look alike.
        axes.imshow(weights_HxTxT[head].numpy(), norm=PowerNorm(0.5, 0, 1), cmap="viridis")
        axes.set_title(f"head {head}", fontsize=8)
        axes.set_xticks(range(length), tokens, rotation=90, fontsize=6)
        axes.set_yticks(range(length), tokens, fontsize=6)
    figure.suptitle(title, fontsize=10)
    return figure
