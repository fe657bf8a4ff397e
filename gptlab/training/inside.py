"""Pictures in TensorBoard at a run's end: what the best model looks at, expects, holds alike."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import Logger

from gptlab.config.schema import TrainConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation import interpretability
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import resolve_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_TOKENS = 16  # tokens in a picture: more cannot be read
EMBEDDINGS = 5000  # of the first tokens, those that TensorBoard's projector still turns smoothly


@dataclass
class ModelProbe:
    """A model, and the beginning of a text that it has written."""

    model: LoadedModel
    prompt: list[int]
    config: TrainConfig

    @cached_property
    def ids(self) -> list[int]:
        net, config = self.model.net, self.config
        request = GenerationRequest(
            *(net, self.model.tokenizer, self.prompt, config.sampling),
            max_new_tokens=MAX_TOKENS,
            seed=config.seed,
        )
        (sample,) = generate_samples(request)
        return sample.tokens[: min(MAX_TOKENS, net.config.window)]

    def words(self, ids: list[int]) -> list[str]:
        return [decode(self.model.tokenizer, [token]) or "·" for token in ids]

    @property
    def step(self) -> str:
        return f"step {self.model.step:,}"


Pictures = Iterator[tuple[str, "Figure"]]  # each with its tag


def attention_pictures(looked: ModelProbe) -> Pictures:
    """Of each layer: where its heads look as the model reads its text."""
    words = looked.words(looked.ids)
    for layer, weights in enumerate(interpretability.attention_maps(looked.model.net, looked.ids)):
        figure = interpretability.plot_attention(weights, words, f"layer {layer}, {looked.step}")
        yield f"attention/layer_{layer}", figure


def logit_lens_pictures(looked: ModelProbe) -> Pictures:
    """What the head would say after each layer."""
    found = interpretability.logit_lens(
        looked.model.net, looked.ids, looked.model.tokenizer.vocab_size
    )
    words = [looked.words(row) for row in found.tokens]
    figure = interpretability.plot_logit_lens(found, words, looked.words(looked.ids), looked.step)
    yield "inside/logit_lens", figure


def surprise_pictures(looked: ModelProbe) -> Pictures:
    """How likely it held each token of its text."""
    if len(looked.ids) < 2:
        return
    found = interpretability.token_expectations(
        looked.model.net, looked.ids, looked.model.tokenizer.vocab_size
    )
    words = looked.words(looked.ids[1:])
    yield "inside/surprise", interpretability.plot_surprise(found, words, looked.step)


PICTURES: dict[str, Callable[[ModelProbe], Pictures]] = {
    "attention": attention_pictures,
    "logit_lens": logit_lens_pictures,
    "surprise": surprise_pictures,
}
CHOICES = {**PICTURES, "embedding": None}  # the last is no picture, but points to turn


def check_interpretability(config: TrainConfig) -> None:
    """Raises UserError for a picture that no table has."""
    for name in config.log_interpretability:
        resolve_choice("log_interpretability", name, CHOICES)


def log_interpretability(
    all_loggers: list[Logger], model: LoadedModel, prompt: list[int], config: TrainConfig
) -> None:
    """Adds what `inside` names to the loggers that take pictures; of models that write."""
    boards = [each.experiment for each in all_loggers if hasattr(each.experiment, "add_figure")]
    if not boards or model.net.config.n_classes:
        return
    looked = ModelProbe(model, prompt, config)
    for name in config.log_interpretability:
        if name == "embedding":
            log_embedding(boards, looked)
            continue
        for tag, figure in PICTURES[name](looked):
            for board in boards:
                with warnings.catch_warnings():  # a letter that the font lacks is a box: no matter
                    warnings.filterwarnings("ignore", "Glyph .* missing from font")
                    board.add_figure(tag, figure, model.step)


def log_embedding(boards: list, looked: ModelProbe) -> None:
    """The tokens as points, to turn and to search for neighbours, in TensorBoard's projector."""
    tokens = range(min(EMBEDDINGS, looked.model.tokenizer.vocab_size))
    words = [repr(word)[1:-1] for word in looked.words(list(tokens))]  # a line each
    table = looked.model.net.embedding.weight[: len(words)].detach().float().cpu()
    for board in boards:
        if hasattr(board, "add_embedding"):
            board.add_embedding(table, words, tag="embedding", global_step=looked.model.step)
