"""EvalContext: the model, corpus and settings that every evaluation suite receives."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from gptlab.config.schema import DataConfig, EvaluateConfig, SamplingConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TrainingBatches, ValidationBatches
from gptlab.data.sequences import DocumentSequences, Sequences, make_sequences
from gptlab.data.tokenizer import END_OF_TEXT, Tokenizer, VocabularyTokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.checkpoint import LoadedModel, config_from_stored
from gptlab.model.gpt import GPT, count_parameters
from gptlab.utils.device import resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from gptlab.evaluation.document_scores import DocumentScores

Results = dict[str, float]  # by `name/metric`, such as valid/loss or hellaswag/acc_norm
MIN_TOKENS = 8  # length of the shortest document to continue


def named_results(name: str, metrics: Mapping[str, float | None]) -> Results:
    """Prefix each metric with `name/`; drop those without a value."""
    return {f"{name}/{key}": value for key, value in metrics.items() if value is not None}


def count_token_bytes(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Count the UTF-8 bytes of each token id, (V,); ids that pad the vocabulary have none."""
    lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    return torch.tensor(lengths + [0] * (vocab_size - len(lengths)))


@dataclass(kw_only=True)
class EvalContext:
    """A model, a corpus, and the settings of their evaluation."""

    config: TrainConfig | EvaluateConfig  # for sampling, max_new_tokens, prompt, seed, hellaswag
    net: GPT
    tokenizer: Tokenizer
    dataset: tuple[DataConfig, Corpus] | None  # None: only for suites that need no corpus
    precision: str  # Lightning's name: 32-true, bf16-mixed, …
    context_length: int  # input tokens of the longest sequence
    batch_size: int  # sequences in a batch
    max_tokens: int | None  # scored tokens of each held-out split; None: all
    stride: int | None = None  # score the last `stride` tokens of each window; None: all
    by_document: bool = False  # score perplexity document by document, with a standard error
    eot_first: bool  # whether prompts begin with end-of-text
    num_samples: int = 20  # texts that a suite generates
    # Prompt of the memorisation suite; None: the first halves of held-out documents.
    memorisation_prompt: list[int] | None = None
    raw_dir: Path  # where downloads are stored
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
        """The model's task, as in `data.task`."""
        if self.net.config.n_classes:
            return "classification"
        return self.data.task if self.dataset else "text"

    @property
    def prompt_start(self) -> list[int]:
        """The tokens that a prompt starts with: end-of-text, or none."""
        return [self.tokenizer.eot] if self.eot_first else []

    @cached_property
    def byte_counts(self) -> Tensor:
        """UTF-8 bytes of each token of the model's vocabulary, (V,)."""
        return count_token_bytes(self.tokenizer, self.net.embedding.num_embeddings)

    def sequences(self, split: str) -> Sequences:
        return make_sequences(self.corpus, split, self.context_length, self.data, self.config.seed)

    def batches(self, split: str) -> ValidationBatches:
        """Read a split in order, each target once, up to `max_tokens`."""
        sequences = self.sequences(split)
        if self.stride and isinstance(sequences, DocumentSequences):
            raise UserError(
                f"stride={self.stride}: works on windows of a stream of tokens, but in this "
                "corpus each document is a sequence (data.batching=rows); leave stride out"
            )
        return ValidationBatches(sequences, self.batch_size, self.max_tokens, self.stride)

    def random_batches(self, split: str) -> TrainingBatches:
        """Draw batches of a split in the order of training."""
        return TrainingBatches(self.sequences(split), BatchShape(self.batch_size, 1))

    def documents_to_continue(self) -> list[list[int]]:
        """Read the first held-out documents that are long enough; raises UserError below 2."""
        count = self.num_samples
        if count < 2:
            raise UserError(f"num_samples={count}: must be at least 2, to compare texts")
        first = self.corpus.documents("valid", 4 * count)
        documents = [document for document in first if len(document) >= MIN_TOKENS][:count]
        if len(documents) < 2:
            advice = "raise data.split"
            if self.corpus.splits["train"].documents < 2 * count:  # a larger share is no help
                advice = f"separate its documents by {END_OF_TEXT} or data.document_boundary=line"
            raise UserError(
                f"{self.corpus.folder}: has fewer than 2 held-out documents of at least "
                f"{MIN_TOKENS} tokens; {advice}, or leave bleu_rouge and memorisation out"
            )
        return documents

    def continue_documents(self) -> tuple[list[Sample], list[list[int]]]:
        """Generate the second half of held-out documents; return samples and real endings."""
        samples, endings = [], []
        bar = tqdm(
            self.documents_to_continue(), "generating", unit=" texts", disable=None, leave=False
        )
        for number, document in enumerate(bar):
            half = len(document) // 2
            prompt = self.prompt_start + document[:half]
            samples += self.generate(prompt, seed=self.config.seed + number)
            endings.append(document[half:][: self.config.max_new_tokens])
        return samples, endings

    def generate(
        self,
        prompt: list[int],
        num_samples: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        progress: str | None = None,
    ) -> list[Sample]:
        """Continue a prompt; `progress` names a progress bar of the tokens."""
        text, sampling = (self.net, self.tokenizer, prompt), sampling or self.config.sampling
        length = self.config.max_new_tokens
        request = GenerationRequest(*text, sampling, num_samples, length, seed)
        return generate_samples(request, progress)


def checkpoint_context(
    config: EvaluateConfig, model: LoadedModel, overrides: list[str], needs_corpus: bool
) -> EvalContext:
    """Make the context of a stored model, with its run's corpus or the one that `overrides` name.

    Raises UserError if a needed corpus is missing or does not fit the model.
    """
    operations = 2 * count_parameters(model.net) * config.batch_size * model.net.config.window
    accelerator = resolve_accelerator(config.accelerator, "accelerator", operations)
    model.net.to(accelerator)
    names_data = any(name.split("=")[0].split(".")[0] == "data" for name in overrides)
    unknown = (config.unknown, config.tokenizer.unknown if needs_corpus and names_data else None)
    if "skip" in unknown and isinstance(model.tokenizer, VocabularyTokenizer):
        model.tokenizer.unknown = "skip"
    root = Path(str(config.corpus_root or model.config.get("corpus_root") or "corpora"))
    root = root.expanduser()
    dataset = open_dataset(config, model, root, names_data) if needs_corpus else None
    return EvalContext(
        config=config,
        net=model.net,
        tokenizer=model.tokenizer,
        dataset=dataset,
        precision=resolve_precision(config.precision, accelerator),
        context_length=model.net.config.window,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        stride=config.stride,
        by_document=True,
        eot_first=model.eot_first,
        num_samples=config.num_samples,
        raw_dir=root / "raw",
    )


def open_dataset(
    config: EvaluateConfig, model: LoadedModel, root: Path, named: bool
) -> tuple[DataConfig, Corpus]:
    """Open the corpus from the command line or the model's run; check that it fits the model."""
    if named:
        data, seed, stored = config.data, config.seed, None
    else:
        data, seed, stored = run_dataset(model, root)
    tokenizer = model.tokenizer
    corpus = stored or open_corpus(data, config.tokenizer, seed, str(root), False, tokenizer)
    window, classes = model.net.config.window, corpus.classes
    if vocabulary(corpus.tokenizer) != vocabulary(tokenizer):
        raise UserError(f"{corpus.folder}: its vocabulary differs from the model's, {model.path}")
    if bool(classes) != bool(model.net.config.n_classes):
        raise UserError(
            f"data: {corpus.folder.name} has {'' if classes else 'no '}classes, but the model "
            f"{model.path} is {'no' if classes else 'a'} classifier"
        )
    if data.row_length and data.row_length > window + 1:
        raise UserError(
            f"data.row_length={data.row_length}: must be at most {window + 1}, one more than the "
            "model's context"
        )
    return data, corpus


def vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    return {**tokenizer.state(), "unknown": None}


def run_dataset(model: LoadedModel, root: Path) -> tuple[DataConfig, int, Corpus | None]:
    """Read the data settings and the seed of a model's run; open its corpus if it is intact."""
    try:
        data = config_from_stored(DataConfig, model.config["data"])
        name, seed = str(model.metadata["corpus"]), int(model.config["seed"])
    except Exception:  # exported models and damaged checkpoints
        raise UserError(
            f"{model.path}: does not name its training corpus; choose a text: data=text "
            "data.path=FILE"
        ) from None
    if (root / name).is_dir() and Path(name).name == name:
        with contextlib.suppress(UserError):
            return data, seed, Corpus(root / name)
    return data, seed, None
