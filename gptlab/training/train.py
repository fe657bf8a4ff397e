"""One training run, from a validated configuration to its summary."""

import contextlib
import shlex
import sys
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer

from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule
from gptlab.evaluation.suites import check_suites, check_training_suites
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.lora import add_lora, freeze
from gptlab.training import baseline
from gptlab.training.baseline import FinishedRun
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown, ShutdownRequested
from gptlab.training.console import opening_lines
from gptlab.training.final_evaluation import evaluate_finished_run, evaluation_context
from gptlab.training.init_weights import (
    copy_initial_weights,
    load_initial_model,
    open_training_corpus,
    prefer_init_from,
)
from gptlab.training.module import Classifier, LanguageModel
from gptlab.training.out_of_memory import train_with_oom_retry
from gptlab.training.preflight import check_settings, run_preflight
from gptlab.training.resume import (
    NothingToResume,
    ResumedRun,
    explain_restore_errors,
    find_resumed_run,
)
from gptlab.training.run_folder import (
    current_run_folder,
    forget_run_folder,
    is_child_process,
    open_run_folder,
)
from gptlab.training.run_plan import RunPlan, make_run_plan
from gptlab.training.trainer import (
    TrainingSetup,
    configure_torch,
    find_callback,
    make_callbacks,
    make_trainer,
    silence_lightning,
)
from gptlab.utils.console import print_status

try:  # optional: without this folder, runs are slower and otherwise the same
    from gptlab.training import fast
except ImportError:
    fast = None  # type: ignore[assignment]  # a module or None


def train(config: TrainConfig) -> float | None:
    """Train a model; return the validation loss of its best checkpoint in nats per token.

    Returns None if there was nothing to train. Raises UserError, leaving no run folder, for every
    mistake that can be detected before the first step.
    """
    silence_lightning()
    forget_run_folder()  # the previous sweep job's
    overrides = list(HydraConfig.get().overrides.task)
    try:
        resumed = find_resumed_run(config, overrides, current_run_folder())
    except NothingToResume as reason:
        print(reason)
        return None
    config = resumed.config if resumed else prefer_init_from(config, overrides)
    run = train_with_oom_retry(train_once, config, resumed)
    if run is None:
        return None
    if baseline.wants_baseline(config):
        print_status("training the same model from random weights, to compare")
        forget_run_folder()
        train_with_oom_retry(train_once, baseline.baseline_config(config, run.folder), None)
    return run.summary.after["valid/loss"]


def train_once(config: TrainConfig, resumed: ResumedRun | None) -> FinishedRun | None:
    """Train and evaluate one model; return None if only the preflight was asked for."""
    check_settings(config)
    check_training_suites(config)

    # Data, in the vocabulary of the initial model, if there is one.
    initial = None if resumed else load_initial_model(config, HydraConfig.get().overrides.task)
    corpus = resumed.open_corpus() if resumed else open_training_corpus(config, initial)
    plan = make_run_plan(config, corpus, fixed_structure(config, initial, resumed))
    done_steps = resumed.step if resumed else 0
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    data.first_micro_batch = done_steps * plan.shape.accumulate

    # Model and recipe.
    configure_torch(config.trainer, plan.accelerator)
    net = make_net(config, plan, corpus, initial)
    random_weights = not resumed and (initial is None or config.from_scratch)
    if random_weights and not all(parameter.requires_grad for parameter in net.parameters()):
        plan.notes.append("some random weights are frozen; to train all of them: finetune=all")
    compiled_step = fast.compile_training(config.trainer, plan, net) if fast else None
    context = evaluation_context(config, plan, net, corpus)
    check_suites(context, [*config.eval_before, *config.eval_after])
    setup = TrainingSetup(config, plan, data, context)
    module = (Classifier if corpus.classes else LanguageModel)(
        *(net, plan.optim, plan.steps, context.token_bytes, config.seed, compiled_step),
        layer_decay=config.finetune.layer_decay,
    )

    # Preflight, in the first process only.
    report = None
    if not is_child_process():
        thorough = config.preflight == "only"
        report = run_preflight(net, data, plan, random_weights, thorough, compiled_step)
    if report and config.preflight == "only":
        print(opening_lines(config, plan, corpus, net, report, None, done_steps), flush=True)
        return None

    # Training.
    with open_run_folder(config, plan, resumed.folder if resumed else None) as folder:
        if resumed:
            resumed.restore_last_checkpoint()
        seconds = report.seconds_per_step * (plan.steps - done_steps) if report else 0.0
        callbacks = make_callbacks(setup, folder, seconds, resumed)
        trainer = make_trainer(config, plan, callbacks, folder, resumed)
        if fast and config.trainer.fast_loop:
            fast.use_fast_loop(trainer)
        if report:
            print(opening_lines(config, plan, corpus, net, report, folder, done_steps), flush=True)
        with contextlib.suppress(ShutdownRequested), explain_restore_errors(resumed):
            trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
        exit_if_interrupted(trainer, folder)
        return FinishedRun(folder, evaluate_finished_run(trainer, setup, folder, resumed))


def fixed_structure(
    config: TrainConfig, initial: LoadedModel | None, resumed: ResumedRun | None
) -> ModelConfig | None:
    """The model whose structure the run must keep, if it starts from trained weights."""
    if resumed:  # its configuration contains it
        return config.model if config.init_from or config.model.pretrained else None
    return initial.net.config if initial else None


def make_net(
    config: TrainConfig, plan: RunPlan, corpus: Corpus, initial: LoadedModel | None
) -> GPT:
    """The decoder with random or initial weights, LoRA added and frozen weights marked."""
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    if initial and not config.from_scratch:
        copy_initial_weights(net, initial, corpus.classes)
        plan.origin = f"{initial.path}, step {initial.step:,}"
    add_lora(net, config.finetune)
    freeze(net, config.finetune)
    if not config.trainer.chunked_loss:
        net.max_logits = sys.maxsize
    return net


def exit_if_interrupted(trainer: Trainer, folder: Path) -> None:
    """After a signal, print how to resume and exit with the shell's code: 130 for Ctrl-C."""
    number = find_callback(trainer, GracefulShutdown).received_signal
    if number is None:
        return
    if trainer.is_global_zero:
        resume = f"python train.py resume={shlex.quote(str(folder))}"
        print(f"stopped after step {trainer.global_step:,}; resume with  {resume}", file=sys.stderr)
    raise SystemExit(128 + number)
