"""Resolve `null` and `auto` settings of a run: sizes, step counts, device.

TrainingSetup joins the plan with data and model; all of it exists before the run folder does.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config.keys import plugin_references
from gptlab.config.schema import ModelConfig, OptimConfig, TrainConfig, TrainerConfig
from gptlab.config.validation import validate_row_length
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule, usable_workers
from gptlab.data.sequences import RecordSequences, make_sequences
from gptlab.evaluation.eval_context import EvalContext
from gptlab.generation.engine import training_prompt
from gptlab.model.gpt import GPT
from gptlab.model.size import weight_bytes
from gptlab.training.init_weights import adopt_structure
from gptlab.training.resume import ResumedRun
from gptlab.utils.console import plural
from gptlab.utils.device import mps_is_available, resolve_accelerator, resolve_precision
from gptlab.utils.errors import UserError

# Limits of a run on the user's own short text (data.fit_to_text).
MAX_PASSES = 30
MIN_STEPS = 100


@dataclass
class RunPlan:
    """A configuration without `null` or `auto`."""

    model: ModelConfig  # with its vocabulary and context
    optim: OptimConfig  # with its warmup
    shape: BatchShape
    steps: int
    eval_every: int  # this and the next two in steps; 0: never
    checkpoint_every: int
    sample_every: int
    row_tokens: int
    sequences_per_epoch: int
    accelerator: str  # cpu | cuda | mps
    precision: str
    variable_length: bool = False  # each batch is padded to its longest sequence
    compile: str = "false"  # false | model | step
    initial_checkpoint: str = ""  # source of the initial weights; empty: random weights
    notes: list[str] = field(default_factory=list)  # decisions to show to the user

    @property
    def tokens_per_step(self) -> int:
        return self.shape.sequences_per_step * self.row_tokens

    def epochs(self, steps: int) -> float:
        """Return the passes over the data in this many steps."""
        return steps * self.shape.sequences_per_step / self.sequences_per_epoch

    def completed_epoch(self, step: int) -> int | None:
        """Return the epoch that this step completes, counted from 1, or None."""
        rows, per_epoch = self.shape.sequences_per_step, self.sequences_per_epoch
        before, after = (step - 1) * rows // per_epoch, step * rows // per_epoch
        return after if after > before else None


@dataclass
class TrainingSetup:
    """Inputs shared by training and evaluation."""

    config: TrainConfig
    plan: RunPlan
    data: TextDataModule
    net: GPT
    resumed: ResumedRun | None  # None: a new run

    @property
    def corpus(self) -> Corpus:
        return self.data.corpus

    @property
    def checkpoint_parts(self) -> list[str]:
        """Names of parts that a checkpoint needs; those of other packages need `plugins=`."""
        names = self.corpus.tokenizer.name, self.config.data.template
        return [*plugin_references(self.plan.model), *names]

    @property
    def done_steps(self) -> int:
        """Optimizer steps of the run before it was resumed."""
        return self.resumed.step if self.resumed else 0

    @cached_property
    def prompt(self) -> list[int]:
        """Token ids of the prompt of the samples."""
        return training_prompt(self.config, self.corpus)

    @cached_property
    def evaluation(self) -> EvalContext:
        """The input of evaluation suites, before and after training."""
        config, plan = self.config, self.plan
        return EvalContext(
            config=config,
            net=self.net,
            tokenizer=self.corpus.tokenizer,
            dataset=(config.data, self.corpus),
            precision=plan.precision,
            context_length=plan.model.context_length,
            batch_size=plan.shape.batch_size,
            max_tokens=config.data.final_tokens,
            eot_first=config.data.eot_first,
            memorisation_prompt=self.prompt,
            raw_dir=Path(config.corpus_root).expanduser() / "raw",
        )


def make_run_plan(
    config: TrainConfig, corpus: Corpus, structure: ModelConfig | None = None
) -> RunPlan:
    """Resolve the configuration for this corpus.

    `structure`: the model whose structure the run must keep, if it starts from trained weights.

    Raises UserError if configuration and corpus do not fit together.
    """
    notes: list[str] = []
    if usable_workers(config.data) < config.data.num_workers:
        notes.append(
            f"data.num_workers={config.data.num_workers}: this launcher's jobs cannot start worker "
            "processes, so each prepares its own batches (data.num_workers=0)"
        )
    model = resolve_model(config, corpus, structure, notes)
    validate_row_length(config.data.row_length, model.context_length)  # `structure` may have set it
    sequences = make_sequences(corpus, "train", model.context_length, config.data, config.seed)
    row_tokens = sequences.length
    if isinstance(sequences, RecordSequences):
        row_tokens = sequences.longest
        check_records(config, corpus, model.context_length, notes)
    if sequences.length < (config.data.row_length or model.context_length + 1) - 1:
        notes.append(
            f"the text is short: training windows have {plural(sequences.length, 'token')}"
        )
    trained_length = max(sequences.length, structure.window if structure else 0)
    short = trained_length < model.context_length
    model = replace(model, trained_length=trained_length if short else None)
    if trained_length < model.context_length - 1:
        notes.append(
            f"rows have {plural(trained_length, 'token')}, so positions from there to "
            f"model.context_length={model.context_length} are never trained; generation and "
            "evaluation do not use them"
        )
    shape = make_batch_shape(config, sequences.length)
    steps = count_steps(config, shape, len(sequences), notes)
    accelerator = choose_accelerator(config.trainer, model, shape.batch_size * row_tokens, notes)
    trainer, interval = config.trainer, max(1, min(1000, steps // 5))
    return RunPlan(
        model=model,
        optim=resolve_warmup(config.optim, steps),
        shape=shape,
        steps=steps,
        eval_every=interval if trainer.eval_every is None else trainer.eval_every,
        checkpoint_every=interval if trainer.checkpoint_every is None else trainer.checkpoint_every,
        sample_every=interval if trainer.sample_every is None else trainer.sample_every,
        row_tokens=row_tokens,
        sequences_per_epoch=len(sequences),
        accelerator=accelerator,
        precision=resolve_precision(config.trainer.precision, accelerator),
        variable_length=config.data.task != "text",
        notes=notes,
    )


def choose_accelerator(
    trainer: TrainerConfig, model: ModelConfig, tokens: int, notes: list[str]
) -> str:
    """Resolve the device; `tokens` are those of a micro-batch."""
    operations = 6 * weight_bytes(model) / 4 * tokens
    if trainer.devices * trainer.num_nodes > 1:  # Apple has one GPU
        operations = 0.0
    accelerator = resolve_accelerator(trainer.accelerator, operations=operations)
    if accelerator == "cpu" and trainer.accelerator == "auto" and mps_is_available():
        notes.append(
            "a step of this model is too small for the Apple GPU to pay (docs/platforms.md); "
            "trainer.accelerator=mps uses it all the same"
        )
    return accelerator


def stored_config(config: TrainConfig, plan: RunPlan) -> dict[str, Any]:
    """Return the configuration to store, with the model's final sizes.

    Without `plugins`: a run folder cannot allow imports.
    """
    return asdict(config) | {"model": asdict(plan.model), "resume": None, "plugins": []}


def resolved_settings(plan: RunPlan, threads: int) -> dict[str, Any]:
    """Return the resolved settings that a resumed run keeps, by key.

    Warmup and intervals follow from the steps again, also if the run is extended.
    """
    return {
        "trainer.accelerator": plan.accelerator,
        "trainer.precision": plan.precision,
        "trainer.compile": plan.compile,
        "trainer.num_threads": threads,
        "trainer.max_steps": plan.steps,
        "trainer.max_epochs": None,
    }


def check_records(config: TrainConfig, corpus: Corpus, context: int, notes: list[str]) -> None:
    """Note how many records are truncated; raise UserError if a split is left without targets."""
    truncated = total = 0
    for split in corpus.splits:
        records = make_sequences(corpus, split, context, config.data, config.seed)
        assert isinstance(records, RecordSequences)
        rows = np.arange(len(records))
        if not records.targets_per_document(rows).any():
            raise UserError(
                f"data: every prompt of the {split} records is longer than a row of "
                f"{plural(records.length, 'token')}; try a larger model.context_length or "
                "data.template=plain"
            )
        truncated += int((records.token_counts(rows) > records.length).sum())
        total += len(records)
    if truncated:
        notes.append(f"{truncated:,} of {total:,} records are too long and are truncated")


def resolve_warmup(optim: OptimConfig, steps: int) -> OptimConfig:
    """Set the default warmup; raise UserError for one that is longer than the run."""
    if optim.warmup_steps is None:
        return replace(optim, warmup_steps=min(100, steps // 10))
    if optim.warmup_steps > steps:
        key = f"optim.warmup_steps={optim.warmup_steps}"
        raise UserError(f"{key}: must not exceed the run's {plural(steps, 'step')}")
    return optim


def resolve_model(
    config: TrainConfig, corpus: Corpus, structure: ModelConfig | None, notes: list[str]
) -> ModelConfig:
    """Resolve the vocabulary, the classes and a context that fits the text.

    Only a new model trained on the user's own short text gets a shorter context.
    """
    model = adopt_structure(config.model, structure) if structure else config.model
    if model.n_classes and not corpus.classes:
        raise UserError("model.n_classes: cannot be typed; choose labeled data: data=toy_spam")
    if corpus.classes:
        model = replace(model, n_classes=len(corpus.classes), tied_head=False, head_bias=True)
    vocabulary = corpus.tokenizer.vocab_size
    if model.vocab_size and model.vocab_size < vocabulary:
        raise UserError(
            f"model.vocab_size={model.vocab_size}: the tokenizer has {plural(vocabulary, 'token')}"
            "; choose at least as many, or leave it out"
        )
    context = model.context_length
    if config.data.fit_to_text and not structure:
        tokens = {name: split.tokens for name, split in corpus.splits.items()}
        fits = max(4, min(tokens["train"] // 8, tokens["valid"] - 1))
        fits = max(fits, (config.data.row_length or 0) - 1)
        if fits < context:
            notes.append(f"the text is short: context {fits} instead of {context}")
            context = fits
    return replace(model, vocab_size=model.vocab_size or vocabulary, context_length=context)


def make_batch_shape(config: TrainConfig, row_tokens: int) -> BatchShape:
    """Choose rows per micro-batch and micro-batches per step.

    Raises UserError if trainer.tokens_per_step is not a whole number of micro-batches.
    """
    trainer, batch = config.trainer, config.data.batch_size
    world = trainer.devices * trainer.num_nodes
    accumulate = trainer.accumulate_grad_batches
    if trainer.tokens_per_step:
        micro = batch * row_tokens * world
        accumulate, rest = divmod(trainer.tokens_per_step, micro)
        if rest:
            nearest = max(1, round(trainer.tokens_per_step / micro)) * micro
            raise UserError(
                f"trainer.tokens_per_step={trainer.tokens_per_step}: must be a multiple of "
                f"data.batch_size × tokens per row × devices = {batch} × {row_tokens} × {world} = "
                f"{micro} (try {nearest})"
            )
    return BatchShape(batch, accumulate, world)


def count_steps(config: TrainConfig, shape: BatchShape, rows: int, notes: list[str]) -> int:
    """Return the smaller of max_steps and max_epochs; default: data.default_max_steps."""
    trainer = config.trainer
    steps_per_epoch = rows / shape.sequences_per_step
    default = math.inf if trainer.max_epochs else config.data.default_max_steps
    limits = [trainer.max_steps or default]
    if trainer.max_epochs:
        # The step that trains on the last row completes the epoch.
        limits.append(max(1, math.ceil(trainer.max_epochs * steps_per_epoch - 1e-9)))
    if config.data.fit_to_text and not trainer.max_steps and not trainer.max_epochs:
        short = max(MIN_STEPS, math.ceil(MAX_PASSES * steps_per_epoch))
        if short < min(limits):
            notes.append(f"the text is short: {plural(short, 'step')} instead of {min(limits):g}")
            limits.append(short)
    return int(min(limits))
