"""A trained model and the text to evaluate it on, as `python -m gptlab.evaluate` finds them."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig, EvaluateConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import ValidationBatches
from gptlab.data.sequences import DocumentSequences, make_sequences
from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer
from gptlab.evaluation.perplexity import DocumentScores
from gptlab.model.checkpoint import LoadedModel, config_from_stored
from gptlab.utils.device import resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError


@dataclass
class EvalContext:
    """What every suite needs."""

    config: EvaluateConfig
    model: LoadedModel
    root: Path  # of the corpora
    precision: str
    text: tuple[DataConfig, Corpus] | None
    scored: dict[str, DocumentScores] = field(default_factory=dict)  # by split, once perplexity has

    @property
    def data(self) -> DataConfig:
        return self.text[0]

    @property
    def corpus(self) -> Corpus:
        return self.text[1]

    def batches(self, split: str) -> ValidationBatches:
        """A split in its own order, up to `max_tokens` of it."""
        config = self.config
        windows = make_sequences(self.corpus, split, self.context, self.data, config.seed)
        if config.stride and isinstance(windows, DocumentSequences):
            raise UserError(
                "stride: is for windows of a stream; in this text each document is a row of its "
                "own (data.batching=rows), and each token sees all before it already"
            )
        return ValidationBatches(windows, config.batch_size, config.max_tokens, config.stride)

    @property
    def context(self) -> int:
        return self.model.net.config.window

    def documents(self, split: str, most: int) -> list[list[int]]:
        """The tokens of the first documents of a split, without the end-of-text."""
        ends = self.corpus.ends(split)[:most].tolist()
        stream = self.corpus.tokens(split)
        return [stream[b : e - 1].tolist() for b, e in zip([0, *ends], ends, strict=False)]


def open_context(
    config: EvaluateConfig, model: LoadedModel, typed: list[str], needs_text: bool
) -> EvalContext:
    """The model with the text it was trained on, or with the one that was typed.

    Raises UserError where there is none, if one is needed.
    """
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    precision = resolve_precision(config.precision, accelerator)
    model.net.to(accelerator)
    if isinstance(model.tokenizer, VocabularyTokenizer) and config.unknown == "skip":
        model.tokenizer.unknown = "skip"
    root = Path(str(config.corpus_root or model.config.get("corpus_root") or "corpora"))
    subject = EvalContext(config, model, root.expanduser(), precision, None)
    given = any(name.split("=")[0].split(".")[0] == "data" for name in typed)
    if not needs_text:
        return subject
    subject.text = data, corpus = of_text(subject) if given else of_run(subject)
    if vocabulary(corpus.tokenizer) != vocabulary(model.tokenizer):
        raise UserError(f"{corpus.folder}: was made for another vocabulary than the model's")
    if data.row_length and data.row_length > model.net.config.window + 1:
        raise UserError(
            f"data.row_length={data.row_length}: is more than the model can see at once"
        )
    return subject


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    return {**tokenizer.state(), "unknown": None}


def of_text(subject: EvalContext) -> tuple[DataConfig, Corpus]:
    config, tokenizer = subject.config, subject.model.tokenizer
    if isinstance(tokenizer, VocabularyTokenizer) and config.tokenizer.unknown == "skip":
        tokenizer.unknown = "skip"
    corpus = open_corpus(
        *(config.data, config.tokenizer, config.seed, str(subject.root)), given=tokenizer
    )
    return config.data, corpus


def of_run(subject: EvalContext) -> tuple[DataConfig, Corpus]:
    """The text that the run was trained on, as it was kept, or made anew from its sources."""
    model, root = subject.model, subject.root
    try:
        data = config_from_stored(DataConfig, model.config["data"])
        name, seed = str(model.metadata["corpus"]), int(model.config["seed"])
    except Exception:  # of an exported model, or of strange content
        raise UserError(
            f"{model.path}: does not say what it was trained on; name a text: data=text "
            "data.path=FILE"
        ) from None
    if (root / name).is_dir() and Path(name).name == name:
        with contextlib.suppress(UserError):  # damaged: it is made anew
            return data, Corpus(root / name)
    tokenizer = subject.config.tokenizer
    return data, open_corpus(data, tokenizer, seed, str(root), given=model.tokenizer)
