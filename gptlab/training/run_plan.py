"""What a run will do, worked out before it begins: sizes, steps, device, precision."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from gptlab.config.schema import ModelConfig, OptimConfig, TrainConfig
from gptlab.config.validation import validate_row_length
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape
from gptlab.data.sequences import RecordSequences, make_sequences
from gptlab.training.init_weights import adopt_structure
from gptlab.utils.device import resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError

PASSES = 30  # own text: at most so often over it …
FEWEST_STEPS = 100  # … but at least so many steps


@dataclass
class RunPlan:
    """Everything that the configuration left open, decided."""

    model: ModelConfig  # with vocabulary and context
    optim: OptimConfig  # with its warm-up
    shape: BatchShape
    steps: int
    eval_every: int  # steps; 0: never
    checkpoint_every: int
    sample_every: int
    row_tokens: int
    rows_per_epoch: int
    accelerator: str  # cpu | cuda | mps
    precision: str
    varying: bool = False  # rows are as long as the longest of their batch
    compile: str = "false"  # false | model | step
    origin: str = ""  # whose weights the run begins with; nobody's: random ones
    notes: list[str] = field(default_factory=list)  # decisions a user should hear of

    @property
    def tokens_per_step(self) -> int:
        return self.shape.rows_per_step * self.row_tokens

    @property
    def epochs(self) -> float:
        return self.steps * self.shape.rows_per_step / self.rows_per_epoch


def make_run_plan(config: TrainConfig, corpus: Corpus, start: ModelConfig | None = None) -> RunPlan:
    """`start`: the model that a run begins with, if it is another's.

    Raises UserError where configuration and corpus do not go together.
    """
    notes: list[str] = []
    model = fit_model(config, corpus, start, notes)
    validate_row_length(
        config.data.row_length, model.context_length
    )  # of `start`, it may be another
    windows = make_sequences(corpus, "train", model.context_length, config.data, config.seed)
    if isinstance(windows, RecordSequences):
        check_records(config, corpus, model.context_length, notes)
    if windows.length < (config.data.row_length or model.context_length + 1) - 1:
        notes.append(f"the text is short: windows have {windows.length} tokens")
    reached = max(windows.length, start.window if start else 0)
    short = reached < model.context_length
    model = replace(model, trained_length=reached if short else None)
    if reached < model.context_length - 1:
        notes.append(
            f"rows have {reached} tokens: positions from there to model.context_length="
            f"{model.context_length} are never trained; writing and scoring keep below them"
        )
    shape = make_shape(config, windows.length)
    steps = count_steps(config, shape, len(windows), notes)
    accelerator = resolve_accelerator(config.trainer.accelerator)
    trainer, often = config.trainer, max(1, min(1000, steps // 5))
    return RunPlan(
        model=model,
        optim=resolve_warmup(config.optim, steps),
        shape=shape,
        steps=steps,
        eval_every=often if trainer.eval_every is None else trainer.eval_every,
        checkpoint_every=often if trainer.checkpoint_every is None else trainer.checkpoint_every,
        sample_every=often if trainer.sample_every is None else trainer.sample_every,
        row_tokens=windows.longest if isinstance(windows, RecordSequences) else windows.length,
        rows_per_epoch=len(windows),
        accelerator=accelerator,
        precision=resolve_precision(config.trainer.precision, accelerator),
        varying=config.data.task != "text",
        notes=notes,
    )


def check_records(config: TrainConfig, corpus: Corpus, context: int, notes: list[str]) -> None:
    """Notes how many are cut; raises UserError where nothing is left of them to learn or score."""
    cut = total = 0
    for split in corpus.splits:
        windows = make_sequences(corpus, split, context, config.data, config.seed)
        assert isinstance(windows, RecordSequences)
        everything = np.arange(len(windows))
        if not windows.counted(everything).any():
            raise UserError(
                f"data: of the {split} records every prompt is longer than a row of "
                f"{windows.length} tokens; take a larger model.context_length, or "
                "data.template=plain"
            )
        cut += int((windows.tokens_of(everything) > windows.length).sum())
        total += len(windows)
    if cut:
        notes.append(f"{cut:,} of {total:,} records are too long and lose their ends")


def resolve_warmup(optim: OptimConfig, steps: int) -> OptimConfig:
    """The warm-up decided where it was left open; raises UserError if longer than the run."""
    if optim.warmup_steps is not None:
        if optim.warmup_steps > steps:
            raise UserError(f"optim.warmup_steps={optim.warmup_steps}: the run has {steps} steps")
        return optim
    return replace(optim, warmup_steps=min(100, steps // 10))


def fit_model(
    config: TrainConfig, corpus: Corpus, start: ModelConfig | None, notes: list[str]
) -> ModelConfig:
    """The model with the tokenizer's vocabulary, and for own text a context that fits it; or with
    the structure of the one that the run begins with."""
    wanted = adopt_structure(config.model, start) if start else config.model
    if wanted.n_classes and not corpus.classes:
        raise UserError("model.n_classes: is decided by data with classes, as data=toy_spam")
    if corpus.classes:
        wanted = replace(wanted, n_classes=len(corpus.classes), tied_head=False, head_bias=True)
    vocabulary = corpus.tokenizer.vocab_size
    size = wanted.vocab_size or vocabulary
    if size < vocabulary:
        raise UserError(
            f"model.vocab_size={size}: the tokenizer has {vocabulary:,} tokens; "
            "leave it out, or give at least as many"
        )
    context = wanted.context_length
    if config.data.fit_to_text and not start:
        tokens = {name: split.tokens for name, split in corpus.splits.items()}
        fits = max(4, min(tokens["train"] // 8, tokens["valid"] - 1))
        fits = max(fits, (config.data.row_length or 0) - 1)
        if fits < context:
            notes.append(f"the text is short: context {fits} instead of {context}")
            context = fits
    return replace(wanted, vocab_size=size, context_length=context)


def make_shape(config: TrainConfig, row_tokens: int) -> BatchShape:
    """Rows a micro-batch, micro-batches a step; raises UserError where that is no whole number."""
    trainer, batch = config.trainer, config.data.batch_size
    world = trainer.devices * trainer.num_nodes
    accumulate = trainer.accumulate_grad_batches
    if trainer.tokens_per_step:
        micro = batch * row_tokens * world
        accumulate, rest = divmod(trainer.tokens_per_step, micro)
        if rest:
            near = max(1, round(trainer.tokens_per_step / micro)) * micro
            raise UserError(
                f"trainer.tokens_per_step={trainer.tokens_per_step}: must be a multiple of "
                f"data.batch_size × tokens a row × devices = {batch} × {row_tokens} × {world} = "
                f"{micro}, for instance {near}"
            )
    return BatchShape(batch, accumulate, world)


def count_steps(config: TrainConfig, shape: BatchShape, rows: int, notes: list[str]) -> int:
    """Optimizer steps: max_steps or max_epochs, whichever comes first, or the data's default."""
    trainer = config.trainer
    steps_per_epoch = rows / shape.rows_per_step
    default = math.inf if trainer.max_epochs else config.data.max_steps
    limits = [trainer.max_steps or default]
    if trainer.max_epochs:
        # Up to the step that sees the last row: its remaining rows begin the next epoch.
        limits.append(max(1, math.ceil(trainer.max_epochs * steps_per_epoch - 1e-9)))
    if config.data.fit_to_text and not trainer.max_steps and not trainer.max_epochs:
        short = max(FEWEST_STEPS, math.ceil(PASSES * steps_per_epoch))
        if short < min(limits):
            notes.append(f"the text is short: {short} steps instead of {min(limits):g}")
            limits.append(short)
    return int(min(limits))
