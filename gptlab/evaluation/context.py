"""What every evaluation suite works on: a model, a corpus, and the settings of the evaluation."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gptlab.config.schema import (
    DataConfig,
    EvaluateConfig,
    HellaswagConfig,
    SamplingConfig,
    TrainConfig,
)
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TrainingBatches, ValidationBatches
from gptlab.data.sequences import DocumentSequences, Sequences, make_sequences
from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer
from gptlab.generation.engine import generate_samples, training_prompt
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.checkpoint import LoadedModel, config_from_stored
from gptlab.model.gpt import GPT
from gptlab.utils.device import resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from gptlab.evaluation.document_scores import DocumentScores

Results = dict[str, float]  # by `name/figure`, such as valid/loss or hellaswag/acc_norm
TRAINING_SAMPLES = 20  # texts that a suite generates when it runs before or after training


def named_results(name: str, figures: Mapping[str, float | None]) -> Results:
    """Prefix each figure with `name/`; drop those without a value."""
    return {f"{name}/{key}": value for key, value in figures.items() if value is not None}


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Count the UTF-8 bytes of each token id, (V,); ids that pad the vocabulary have none."""
    lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    return torch.tensor(lengths + [0] * (vocab_size - len(lengths)))


@dataclass
class EvalSettings:
    """How to evaluate; the defaults are those of a run in training."""

    sampling: SamplingConfig
    hellaswag: HellaswagConfig
    seed: int
    batch_size: int  # sequences in a batch
    max_new_tokens: int  # of each generated text
    max_tokens: int | None  # scored tokens of each held-out split; None: all
    stride: int | None = None  # score the last `stride` tokens of each window; None: all
    num_samples: int = TRAINING_SAMPLES  # generated texts
    prompt: str = ""  # of texts generated from their first word on
    # Prompt of the memorisation suite; None: the first halves of held-out documents.
    memorisation_prompt: list[int] | None = None
    by_document: bool = False  # score perplexity document by document, with a standard error


@dataclass
class EvalContext:
    """A model and a corpus, with what the suites need to evaluate one on the other."""

    net: GPT
    tokenizer: Tokenizer
    settings: EvalSettings
    precision: str  # Lightning's name: 32-true, bf16-mixed, …
    context_length: int  # input tokens of the longest sequence
    eot_first: bool  # whether prompts begin with end-of-text
    raw_dir: Path  # where downloads are kept
    dataset: tuple[DataConfig, Corpus] | None = None  # None: only for suites without a corpus
    output_dir: Path | None = None  # where suites write files, if they may
    document_scores: "dict[str, DocumentScores]" = field(default_factory=dict)  # by split

    @property
    def data(self) -> DataConfig:
        assert self.dataset is not None
        return self.dataset[0]

    @property
    def corpus(self) -> Corpus:
        assert self.dataset is not None
        return self.dataset[1]

    @property
    def task(self) -> str:
        """What the model was made for, as in `data.task`."""
        if self.net.config.n_classes:
            return "classification"
        return self.data.task if self.dataset else "text"

    @property
    def held_out_splits(self) -> list[str]:
        return [split for split in self.corpus.splits if split != "train"]

    @cached_property
    def token_bytes(self) -> Tensor:
        """UTF-8 bytes of each token of the model's vocabulary, (V,)."""
        return bytes_of_tokens(self.tokenizer, self.net.embedding.num_embeddings)

    def sequences(self, split: str) -> Sequences:
        seed = self.settings.seed
        return make_sequences(self.corpus, split, self.context_length, self.data, seed)

    def batches(self, split: str) -> ValidationBatches:
        """Read a split in order, each target once, up to `settings.max_tokens`."""
        settings, sequences = self.settings, self.sequences(split)
        if settings.stride and isinstance(sequences, DocumentSequences):
            raise UserError(
                f"stride={settings.stride}: works on windows of a stream of tokens, but in this "
                "corpus each document is a sequence (data.batching=rows); leave stride out"
            )
        size = settings.batch_size
        return ValidationBatches(sequences, size, settings.max_tokens, settings.stride)

    def random_batches(self, split: str) -> TrainingBatches:
        """Draw batches of a split in the order of training."""
        return TrainingBatches(self.sequences(split), BatchShape(self.settings.batch_size, 1))

    def documents(self, split: str, count: int) -> list[list[int]]:
        """Read the first documents of a split, without their end-of-text."""
        return list(self.corpus.documents(split, count))

    def generate(
        self,
        prompt: list[int],
        num_samples: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        progress: str | None = None,
    ) -> list[Sample]:
        """Continue a prompt; `progress` names a progress bar of the tokens."""
        request = GenerationRequest(
            self.net,
            self.tokenizer,
            prompt,
            sampling or self.settings.sampling,
            num_samples,
            self.settings.max_new_tokens,
            seed,
        )
        return generate_samples(request, progress)


def training_context(
    config: TrainConfig,
    net: GPT,
    corpus: Corpus,
    *,
    batch_size: int,
    context_length: int,
    precision: str,
) -> EvalContext:
    """Evaluate `net` as its own run does, before and after training."""
    settings = EvalSettings(
        config.sampling,
        config.hellaswag,
        config.seed,
        batch_size,
        config.max_new_tokens,
        config.data.final_tokens,
        prompt=config.prompt or "",
        memorisation_prompt=training_prompt(config, corpus),
    )
    return EvalContext(
        net,
        corpus.tokenizer,
        settings,
        precision,
        context_length,
        config.data.eot_first,
        Path(config.corpus_root).expanduser() / "raw",
        (config.data, corpus),
    )


def checkpoint_context(
    config: EvaluateConfig, model: LoadedModel, overrides: list[str], needs_corpus: bool
) -> EvalContext:
    """Evaluate a stored model on the corpus of its run, or on the one that `overrides` name.

    Raises UserError where a corpus is needed and there is none, or it does not fit the model.
    """
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    precision = resolve_precision(config.precision, accelerator)
    model.net.to(accelerator)
    if isinstance(model.tokenizer, VocabularyTokenizer) and config.unknown == "skip":
        model.tokenizer.unknown = "skip"
    root = Path(str(config.corpus_root or model.config.get("corpus_root") or "corpora"))
    root = root.expanduser()
    settings = EvalSettings(
        config.sampling,
        config.hellaswag,
        config.seed,
        config.batch_size,
        config.max_new_tokens,
        config.max_tokens,
        config.stride,
        config.num_samples,
        config.prompt or "",
        by_document=True,
    )
    window = model.net.config.window
    context = EvalContext(
        *(model.net, model.tokenizer, settings, precision, window, model.eot_first, root / "raw")
    )
    if needs_corpus:
        names_data = any(name.split("=")[0].split(".")[0] == "data" for name in overrides)
        open_dataset = open_named_dataset if names_data else open_run_dataset
        context.dataset = data, corpus = open_dataset(config, model, root)
        if vocabulary(corpus.tokenizer) != vocabulary(model.tokenizer):
            raise UserError(f"{corpus.folder}: has another vocabulary than the model {model.path}")
        if bool(corpus.classes) != bool(model.net.config.n_classes):
            raise UserError(
                f"data: {corpus.folder.name} has {'' if corpus.classes else 'no '}classes, but the "
                f"model {model.path} is {'no' if corpus.classes else 'a'} classifier"
            )
        if data.row_length and data.row_length > window + 1:
            raise UserError(
                f"data.row_length={data.row_length}: must be at most {window + 1}, one more than "
                "the model's context"
            )
    return context


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    return {**tokenizer.state(), "unknown": None}


def open_named_dataset(
    config: EvaluateConfig, model: LoadedModel, root: Path
) -> tuple[DataConfig, Corpus]:
    """Open the corpus that the command line names, in the model's vocabulary."""
    tokenizer = model.tokenizer
    if isinstance(tokenizer, VocabularyTokenizer) and config.tokenizer.unknown == "skip":
        tokenizer.unknown = "skip"
    corpus = open_corpus(
        config.data, config.tokenizer, config.seed, str(root), tokenizer_override=tokenizer
    )
    return config.data, corpus


def open_run_dataset(
    config: EvaluateConfig, model: LoadedModel, root: Path
) -> tuple[DataConfig, Corpus]:
    """Open the corpus that the model was trained on; rebuild it if it is missing or damaged."""
    try:
        data = config_from_stored(DataConfig, model.config["data"])
        name, seed = str(model.metadata["corpus"]), int(model.config["seed"])
    except Exception:  # an exported model, or a damaged checkpoint
        raise UserError(
            f"{model.path}: does not say which corpus it was trained on; name a text: data=text "
            "data.path=FILE"
        ) from None
    if (root / name).is_dir() and Path(name).name == name:
        with contextlib.suppress(UserError):
            return data, Corpus(root / name)
    return data, open_corpus(
        data, config.tokenizer, seed, str(root), tokenizer_override=model.tokenizer
    )
