"""Plot the results of interpretability.py and log them to TensorBoard."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from gptlab.config.schema import TrainConfig
from gptlab.evaluation import interpretability
from gptlab.evaluation.interpretability import LogitLens, TokenExpectation
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.plugins import resolve_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

MAX_TOKENS = 16  # in a plot; more are not legible
MAX_EMBEDDINGS = 5000  # the first tokens; TensorBoard's projector gets slow with more


@dataclass
class ModelProbe:
    """A model, a short text it generated, and where to log plots of it."""

    model: LoadedModel
    ids: list[int]
    writers: "list[SummaryWriter]"

    @property
    def title(self) -> str:
        return f"step {self.model.step:,}"

    def labels(self, ids: list[int]) -> list[str]:
        return [interpretability.token_label(self.model.tokenizer, token) for token in ids]

    def add_figure(self, tag: str, figure: "Figure") -> None:
        """Log a figure as an image; SummaryWriter.add_figure would import pyplot."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        with warnings.catch_warnings():
            # A character that the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            canvas.draw()
        image_HxWx3 = np.asarray(canvas.buffer_rgba())[..., :3]
        for writer in self.writers:
            writer.add_image(tag, image_HxWx3, self.model.step, dataformats="HWC")


def log_interpretability(
    loggers: list[Logger], model: LoadedModel, prompt: list[int], config: TrainConfig
) -> None:
    """Generate a short text and log plots of the model reading it; classifiers have none.

    Raises UserError for a model that diverged.
    """
    names, window = config.log_interpretability, model.net.config.window
    experiments: list[Any] = [getattr(logger, "experiment", None) for logger in loggers]
    writers = [writer for writer in experiments if hasattr(writer, "add_figure")]
    if writers and names and not model.net.config.n_classes:
        text = model.net, model.tokenizer, prompt
        request = GenerationRequest(*text, config.sampling, 1, MAX_TOKENS, config.seed)
        (sample,) = generate_samples(request)
        probe = ModelProbe(model, sample.tokens[: min(MAX_TOKENS, window)], writers)
        for name in names:
            resolve_choice("log_interpretability", name, INSPECTIONS)(probe)


def log_attention(probe: ModelProbe) -> None:
    labels = probe.labels(probe.ids)
    for layer, weights_HxTxT in enumerate(
        interpretability.attention_maps(probe.model.net, probe.ids)
    ):
        figure = plot_attention(weights_HxTxT, labels, f"layer {layer}, {probe.title}")
        probe.add_figure(f"attention/layer_{layer}", figure)


def log_logit_lens(probe: ModelProbe) -> None:
    lens = interpretability.logit_lens(probe.model.net, probe.ids, probe.model.tokenizer.vocab_size)
    words = [probe.labels(row) for row in lens.tokens]
    figure = plot_logit_lens(lens, words, probe.labels(probe.ids), probe.title)
    probe.add_figure("inside/logit_lens", figure)


def log_surprise(probe: ModelProbe) -> None:
    if len(probe.ids) > 1:
        vocab_size = probe.model.tokenizer.vocab_size
        expectations = interpretability.token_expectations(probe.model.net, probe.ids, vocab_size)
        figure = plot_surprise(expectations, probe.labels(probe.ids[1:]), probe.title)
        probe.add_figure("inside/surprise", figure)


def log_embedding(probe: ModelProbe) -> None:
    """Log the token embeddings as points for TensorBoard's projector."""
    tokens = list(range(min(MAX_EMBEDDINGS, probe.model.tokenizer.vocab_size)))
    labels = [repr(label)[1:-1] for label in probe.labels(tokens)]  # one line each
    points_VxD = probe.model.net.embedding.weight[: len(labels)].detach().float().cpu()
    for writer in probe.writers:
        if hasattr(writer, "add_embedding"):
            writer.add_embedding(points_VxD, labels, tag="embedding", global_step=probe.model.step)


INSPECTIONS: dict[str, Callable[[ModelProbe], None]] = {
    "attention": log_attention,
    "logit_lens": log_logit_lens,
    "surprise": log_surprise,
    "embedding": log_embedding,
}


def make_axes(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a figure of this size in inches."""
    from matplotlib.figure import Figure  # takes long to import

    figure = Figure(figsize=(width, height), dpi=80)
    return figure, figure.subplots()


def plot_attention(weights_HxTxT: Tensor, labels: list[str], title: str) -> "Figure":
    """Plot one layer's heads side by side; the row token attends to the column."""
    heads, length, _ = weights_HxTxT.shape
    columns = min(heads, 4)
    rows = -(-heads // columns)
    pitch = length + 2  # heads are two cells apart
    # One image of all heads, labeled at its edges only: separate axes take seconds to draw.
    tiled = torch.full((rows * pitch - 2, columns * pitch - 2), torch.nan)
    figure, axes = make_axes(2.6 * columns + 0.8, 2.6 * rows + 1)
    for head in range(heads):
        top, left = head // columns * pitch, head % columns * pitch
        # Square roots make weak weights visible.
        tiled[top : top + length, left : left + length] = weights_HxTxT[head].sqrt()
        x, y, name = left + length - 0.7, top - 0.2, f"head {head}"
        axes.text(x, y, name, ha="right", va="top", color="white", fontsize=8)
    axes.imshow(tiled.numpy(), vmin=0, vmax=1, cmap="viridis")
    column_ticks = [column * pitch + at for column in range(columns) for at in range(length)]
    row_ticks = [row * pitch + at for row in range(rows) for at in range(length)]
    style: dict[str, Any] = {"fontsize": 6, "parse_math": False}  # a token may be $$
    axes.set_xticks(column_ticks, labels * columns, rotation=90, **style)
    axes.set_yticks(row_ticks, labels * rows, **style)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)
    figure.subplots_adjust(left=0.6 / figure.get_figwidth(), right=0.99, top=0.95, bottom=0.12)
    return figure


def plot_logit_lens(
    lens: LogitLens, words: list[list[str]], labels: list[str], title: str
) -> "Figure":
    """Plot a table with a row for each layer, the last on top, colored by probability.

    `words` label the lens's tokens, `labels` the text's.
    """
    layers, length = len(words), len(labels)
    figure, axes = make_axes(0.75 * length + 1.5, 0.32 * layers + 1.3)
    image = axes.imshow(lens.probabilities, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    image.axes.invert_yaxis()
    style: dict[str, Any] = {"fontsize": 7, "parse_math": False}
    for layer, row in enumerate(words):
        for at, word in enumerate(row):
            color = "white" if lens.probabilities[layer][at] < 0.6 else "black"
            axes.text(at, layer, word[:9], color=color, ha="center", va="center", **style)
    axes.set_xticks(range(length), labels, rotation=45, **style)
    names = ["embedding", *(f"layer {number}" for number in range(layers - 1))]
    axes.set_yticks(range(layers), names, fontsize=7)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{title}: the next token as predicted after each layer", fontsize=9)
    figure.tight_layout()
    return figure


def plot_surprise(expectations: list[TokenExpectation], labels: list[str], title: str) -> "Figure":
    """Plot a bar for the surprise of each token, and a dot for the surprise the model expected."""
    places = range(len(labels))
    figure, axes = make_axes(0.4 * len(labels) + 1.5, 2.6)
    axes.bar(places, [each.nats for each in expectations], color="#56b4e9", label="surprise")
    entropies = [each.entropy for each in expectations]
    axes.plot(places, entropies, "o", color="#d55e00", markersize=4, label="expected")
    axes.set_xticks(places, labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_ylabel("nats", fontsize=8)
    axes.legend(fontsize=7)
    axes.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure
