"""One training run, from a checked configuration to the last line on the screen."""

import contextlib
import gc
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer

from gptlab.config import sweeps
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule
from gptlab.evaluation.perplexity import bytes_of_tokens
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.lora import add_lora, freeze
from gptlab.model.size import check_size
from gptlab.training import baseline, preflight, resume
from gptlab.training.baseline import FinishedRun
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown, ShutdownRequested
from gptlab.training.callbacks.metrics_logger import csv_header
from gptlab.training.checks import check_settings
from gptlab.training.console import opening_lines
from gptlab.training.fast.compiled_step import CompiledStep, resolve_compile_mode
from gptlab.training.final_evaluation import finish_run
from gptlab.training.init_weights import (
    copy_initial_weights,
    load_initial_model,
    prefer_init_from,
    required_tokenizer,
)
from gptlab.training.inside import check_interpretability
from gptlab.training.module import Classifier, LanguageModel
from gptlab.training.resume import ResumedRun
from gptlab.training.run_plan import RunPlan, make_run_plan
from gptlab.training.suites import TrainingEvaluator, check_spelling, check_suites
from gptlab.training.trainer import make_callbacks, make_trainer, silence_lightning, stored_config
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.device import keep_freed_memory
from gptlab.utils.errors import UserError, is_gpu_out_of_memory

RUN_DIR_ENV = "GPTLAB_RUN_FOLDER"


def train(config: TrainConfig) -> float | None:
    """Trains, and returns the validation loss of the best checkpoint, in nats a token.

    Raises UserError, with nothing left on disk, for whatever can be known before the first step.
    """
    silence_lightning()
    if not is_child_process():
        os.environ.pop(RUN_DIR_ENV, None)  # of the job before
    try:
        resumed = find_resumed(config)
    except resume.NothingToDo as nothing:
        print(nothing)
        return None
    config = resumed.config if resumed else prefer_init_from(config, cli_overrides())
    done = fit_with_oom_retry(config, resumed)
    if done and baseline.wants_baseline(config):
        print_status("now the same model from random weights, to compare")
        os.environ.pop(RUN_DIR_ENV, None)
        fit_with_oom_retry(baseline.baseline_config(config, done.folder), None)
    return done and done.summary.after["valid/loss"]


def fit_with_oom_retry(config: TrainConfig, resumed: ResumedRun | None) -> FinishedRun | None:
    """In smaller micro-batches where memory does not suffice, if that is wanted."""
    while True:
        try:
            return fit(config, resumed)
        except Exception as error:
            if not is_gpu_out_of_memory(error) or (smaller := halve_micro_batch(config)) is None:
                raise
        # Not above: there the exception would still hold what the failed step has made.
        free_memory()
        config = smaller
        folder = resumed.folder if resumed else Path(os.environ.get(RUN_DIR_ENV, os.devnull))
        if (folder / "checkpoints").is_dir():  # not where it failed before the run was there
            resumed = resume.reload_run(folder, config)
            config = resumed.config
        print_status(
            f"out of memory: going on {f'after step {resumed.step:,} ' if resumed else ''}with "
            f"data.batch_size={config.data.batch_size}, the micro-batches of a step as many times "
            "more: the same loss but for rounding and the draws of dropout"
        )


def halve_micro_batch(config: TrainConfig) -> TrainConfig | None:
    """The same steps in micro-batches of half the rows (or the next smaller part of them).

    None where that is not wanted, or not possible: a row is the least, and of several processes
    the others would wait for ever for the one that has no memory.
    """
    rows, trainer = config.data.batch_size, config.trainer
    if rows == 1 or trainer.devices * trainer.num_nodes > 1 or not trainer.halve_on_out_of_memory:
        return None
    times = next(n for n in range(2, rows + 1) if rows % n == 0)
    if not trainer.tokens_per_step:  # otherwise the plan works it out
        more = trainer.accumulate_grad_batches * times
        trainer = replace(trainer, accumulate_grad_batches=more)
    return replace(config, data=replace(config.data, batch_size=rows // times), trainer=trainer)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_resumed(config: TrainConfig) -> ResumedRun | None:
    """The run to go on with, if one was asked for, or stands where a job of a sweep belongs."""
    if is_child_process() and config.resume:
        return resume.find_resumed_run(config, cli_overrides(), Path(os.environ[RUN_DIR_ENV]))
    if config.resume:
        return resume.find_resumed_run(config, cli_overrides())
    if sweeps.is_sweep_job() and (sweeps.job_dir() / "checkpoints").is_dir():
        return resume.find_resumed_run(config, [], sweeps.job_dir())
    return None


def cli_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def fit(config: TrainConfig, resumed: ResumedRun | None) -> FinishedRun | None:
    """From the data to the figures at the end; None where only the preflight was asked for."""
    check_settings(config)
    check_suites(config)
    check_interpretability(config)
    start = None if resumed else load_initial_model(config, cli_overrides())
    corpus = resumed.open_corpus() if resumed else corpus_of(config, start)
    plan = make_run_plan(config, corpus, begins_with(config, start, resumed))
    check_size(plan.model)
    prepare_torch(config, plan)
    net = make_net(config, plan, None if config.from_scratch else start, corpus)
    if start and not config.from_scratch:
        plan.origin = f"{start.path}, step {start.step:,}"
    elif not resumed and any(not p.requires_grad for p in net.parameters()):
        plan.notes.append("random weights stay as they are: to train them all take finetune=all")
    plan.compile = resolve_compile_mode(config.trainer, plan, net)
    if plan.compile == "model":
        net.compile()  # in place: torch.compile(net) would rename every weight
    graph = CompiledStep(net, plan.precision) if plan.compile == "step" else None
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    step = resumed.step if resumed else 0
    data.first = step * plan.shape.accumulate
    token_bytes = bytes_of_tokens(corpus.tokenizer, net.config.vocab_size)
    kind = Classifier if corpus.classes else LanguageModel
    module = kind(
        *(net, plan.optim, plan.steps, token_bytes, config.seed, graph),
        layer_decay=config.finetune.layer_decay,
    )
    examiner = TrainingEvaluator(config, plan, data, token_bytes)
    check_spelling(examiner)
    only = config.preflight == "only"
    fresh = not resumed and (config.from_scratch or not start)
    report = (
        None if is_child_process() else preflight.run_preflight(net, data, plan, fresh, only, graph)
    )
    seconds = report.seconds * (plan.steps - step) if report else 0.0
    if only:
        print(opening_lines(config, plan, corpus, net, report, None, step), flush=True)
        return None
    with run_folder(config, plan, resumed) as folder:
        ours = make_callbacks(examiner, folder, seconds, resumed)
        trainer = make_trainer(config, plan, ours, folder, resumed)
        if not is_child_process():
            print(opening_lines(config, plan, corpus, net, report, folder, step), flush=True)
        with contextlib.suppress(ShutdownRequested), resume.restoring(resumed):
            trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
        leave_if_interrupted(trainer, folder)
        return evaluate_finished_run(trainer, examiner, folder, resumed)


def begins_with(
    config: TrainConfig, start: LoadedModel | None, resumed: ResumedRun | None
) -> ModelConfig | None:
    """The model whose structure a run keeps; a run that goes on has it in its configuration."""
    if resumed:
        return config.model if config.init_from or config.model.pretrained else None
    return start and start.net.config


def corpus_of(config: TrainConfig, start: LoadedModel | None) -> Corpus:
    """The corpus of a new run, in the vocabulary of the model that it begins with."""
    given = required_tokenizer(start and start.tokenizer, config)
    try:
        return open_corpus(
            config.data, config.tokenizer, config.seed, config.corpus_root, given=given
        )
    except UserError as error:
        if given is None or "vocabulary lacks" not in str(error):
            raise
        raise UserError(
            f"init_from={config.init_from}: {error}; or begin with a run of tokenizer=gpt2, which "
            "spells everything"
        ) from None


def make_net(config: TrainConfig, plan: RunPlan, start: LoadedModel | None, corpus: Corpus) -> GPT:
    """The decoder with random weights or those of `start`, and what of it is to be trained."""
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    if start:
        copy_initial_weights(net, start, corpus.classes)
    add_lora(net, config.finetune)
    freeze(net, config.finetune)
    if not config.trainer.chunked_loss:
        net.max_logits = sys.maxsize
    return net


def evaluate_finished_run(
    trainer: Trainer, examiner: TrainingEvaluator, folder: Path, resumed: ResumedRun | None
) -> FinishedRun:
    """The final figures; raises UserError where no memory is left for them."""
    try:
        summary = finish_run(trainer, examiner, folder, resumed)
    except Exception as error:
        if not is_gpu_out_of_memory(error):
            raise
        raise UserError(
            "out of memory while the end was measured: the run is trained and kept; make room, "
            f"then go on with resume={folder}"
        ) from None
    if examiner.config.baseline_of and trainer.is_global_zero:
        baseline.compare_to_baseline(folder.parent / examiner.config.baseline_of, folder, summary)
    return FinishedRun(folder, summary)


def prepare_torch(config: TrainConfig, plan: RunPlan) -> None:
    """What holds for the whole process, before anything is computed (or compiled)."""
    wanted = config.trainer
    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    if wanted.keep_freed_memory and plan.accelerator == "cpu":
        keep_freed_memory()
    exact = plan.accelerator == "cpu" if wanted.deterministic is None else wanted.deterministic
    if exact:  # read when cuBLAS is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any


@contextlib.contextmanager
def run_folder(config: TrainConfig, plan: RunPlan, resumed: ResumedRun | None) -> Iterator[Path]:
    """The run's folder, kept to this process; a new one appears with its first checkpoint.

    Lightning starts the other processes of a run on several devices with this command again:
    they find the folder of the first in the environment.
    """
    if is_child_process():
        yield Path(os.environ[RUN_DIR_ENV])
        return
    folder = resumed.folder if resumed else new_folder(config)
    os.environ[RUN_DIR_ENV] = str(folder)
    new = run_dir.staging_dir(folder)
    try:
        if not resumed:
            text = yaml.safe_dump(stored_config(config, plan), sort_keys=False, allow_unicode=True)
            (new / "config.yaml").write_text(text, encoding="utf-8")
            (new / "metrics.csv").write_text(csv_header(config.data.task), newline="")
        with run_dir.lock_run_dir(folder if resumed else new):
            if resumed:
                resumed.mend()
            yield folder
    finally:
        if not resumed:
            run_dir.discard_staging_dir(folder)


def leave_if_interrupted(trainer: Trainer, folder: Path) -> None:
    """Raises SystemExit with the shell's code for the signal, 130 for Ctrl-C, if one came."""
    (shutdown,) = (c for c in trainer.callbacks if isinstance(c, GracefulShutdown))
    if shutdown.received_signal is not None:
        if trainer.is_global_zero:
            words = f"stopped after step {trainer.global_step:,}; go on with"
            print(f"{words}  python train.py resume={shlex.quote(str(folder))}", file=sys.stderr)
        raise SystemExit(128 + shutdown.received_signal)


def is_child_process() -> bool:
    """Whether Lightning started this process beside a first one that has made the run folder."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and RUN_DIR_ENV in os.environ


def new_folder(config: TrainConfig) -> Path:
    """A new folder, reserved: named after the run's choices, or within its sweep's folder."""
    hydra = HydraConfig.get()
    if sweeps.is_sweep_job():
        job = sweeps.job_dir()
        return run_dir.reserve_run_dir(job.parent, job.name)
    choices = hydra.runtime.choices
    name = choices.get("experiment") or f"{choices['model']}_{choices['data']}"
    root = Path(config.run_root).expanduser()
    return run_dir.reserve_run_dir(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_{config.name or name}")
