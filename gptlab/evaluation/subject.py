"""A trained model and the text to evaluate it on, as `python -m gptlab.evaluate` finds them."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.config import DataConfig, EvaluateConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.loader import ValidationBatches
from gptlab.data.tokenizer import Tokenizer, Vocabulary
from gptlab.data.windows import Rows, make_windows
from gptlab.device import resolve_accelerator, resolve_precision
from gptlab.errors import UserError
from gptlab.model.checkpoint import Loaded, plain_values


@dataclass
class Subject:
    """What every suite needs."""

    config: EvaluateConfig
    model: Loaded
    data: DataConfig
    corpus: Corpus
    precision: str

    def batches(self, split: str) -> ValidationBatches:
        """A split in its own order, up to `most_tokens` of it."""
        config = self.config
        windows = make_windows(self.corpus, split, self.context, self.data, config.seed)
        if config.stride and isinstance(windows, Rows):
            raise UserError("stride: is of windows of a stream, data.batching=sliding")
        return ValidationBatches(windows, config.batch_size, config.most_tokens, config.stride)

    @property
    def context(self) -> int:
        return self.model.net.config.window

    def documents(self, split: str, most: int) -> list[list[int]]:
        """The tokens of the first documents of a split, without the end-of-text."""
        ends = self.corpus.ends(split)[:most].tolist()
        stream = self.corpus.tokens(split)
        return [stream[b : e - 1].tolist() for b, e in zip([0, *ends], ends, strict=False)]


def open_subject(config: EvaluateConfig, model: Loaded, typed: list[str]) -> Subject:
    """The model with the text it was trained on, or with the one that was typed.

    Raises UserError where there is none.
    """
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    precision = resolve_precision(config.precision, accelerator)
    model.net.to(accelerator)
    given = any(name.split("=")[0].split(".")[0] == "data" for name in typed)
    data, corpus = of_text(config, model) if given else of_run(config, model)
    if vocabulary(corpus.tokenizer) != vocabulary(model.tokenizer):
        raise UserError(f"{corpus.folder}: was made for another vocabulary than the model's")
    if data.row_length and data.row_length > model.net.config.window + 1:
        raise UserError(
            f"data.row_length={data.row_length}: is more than the model can see at once"
        )
    return Subject(config, model, data, corpus, precision)


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    return {**tokenizer.state(), "unknown": None}


def of_text(config: EvaluateConfig, model: Loaded) -> tuple[DataConfig, Corpus]:
    root, data = config.corpus_root or "corpora", config.data
    if isinstance(model.tokenizer, Vocabulary):
        model.tokenizer.unknown = config.tokenizer.unknown
    return data, open_corpus(data, config.tokenizer, config.seed, root, given=model.tokenizer)


def of_run(config: EvaluateConfig, model: Loaded) -> tuple[DataConfig, Corpus]:
    """The text that the run was trained on, as it was kept, or made anew from its sources."""
    try:
        data = plain_values(DataConfig, model.config["data"])
        root = Path(str(config.corpus_root or model.config["corpus_root"])).expanduser()
        name, seed = str(model.facts["corpus"]), int(model.config["seed"])
    except Exception:  # of an exported model, or of strange content
        raise UserError(
            f"{model.path}: does not say what it was trained on; name a text: data=text "
            "data.path=FILE"
        ) from None
    if (root / name).is_dir() and Path(name).name == name:
        with contextlib.suppress(UserError):  # damaged: it is made anew
            return data, Corpus(root / name)
    made = open_corpus(data, config.tokenizer, seed, str(root), given=model.tokenizer)
    return data, made
