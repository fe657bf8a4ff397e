"""Train one model, from a validated configuration to the summary of the run."""

import contextlib
import sys
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer

from gptlab.config.keys import plugin_references
from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.evaluation.suites import check_suites, check_training_suites
from gptlab.generation.engine import drop_preset_prompt
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.lora import add_lora, freeze
from gptlab.training import init_weights, resume, run_dir_setup
from gptlab.training.callbacks.graceful_shutdown import (
    GracefulShutdown,
    ShutdownRequested,
    StopAtOnce,
    interrupts_kept,
)
from gptlab.training.device_check import check_device
from gptlab.training.final_evaluation import evaluate_finished_run
from gptlab.training.instantiate import explain_callback_errors
from gptlab.training.loggers import close_loggers
from gptlab.training.module import Classifier, LanguageModel
from gptlab.training.out_of_memory import train_with_oom_retry
from gptlab.training.preflight import check_train_settings, run_preflight
from gptlab.training.random_init_baseline import baseline_config, wants_baseline
from gptlab.training.resume import ResumedRun
from gptlab.training.run_messages import opening_lines
from gptlab.training.run_plan import RunPlan, TrainingSetup, make_run_plan
from gptlab.training.run_summary import FinishedRun, RunSummary
from gptlab.training.trainer import (
    configure_torch,
    find_callback,
    forget_inherited_ranks,
    make_callbacks,
    make_trainer,
    silence_lightning,
)
from gptlab.utils.console import print_status
from gptlab.utils.plugins import plugins_argument
from gptlab.utils.program import command_line

# Optional: without this folder, runs are slower and otherwise the same.
if (Path(__file__).parent / "fast" / "__init__.py").exists():
    from gptlab.training import fast
else:
    fast = None  # type: ignore[assignment]  # a module or None


def train(config: TrainConfig) -> float | None:
    """Train a model; return the validation loss of its best checkpoint in nats per token.

    Returns None if there is no trained run. Raises as `train_run` does.
    """
    try:
        run = train_run(config)
    except resume.NothingToResume as reason:
        print(reason)
        return RunSummary.read(reason.folder).valid_loss if reason.folder else None
    return run.summary.valid_loss if run else None


def train_run(config: TrainConfig) -> FinishedRun | None:
    """Train and evaluate a model, and its baseline; None if only the preflight was asked for.

    Raises UserError, leaving no run folder, for every mistake that can be detected before the first
    step; NothingToResume for a finished run; RunInterrupted after a signal.
    """
    silence_lightning()
    forget_inherited_ranks(config.trainer)
    run_dir_setup.forget_run_dir()  # the previous sweep job's
    overrides = list(HydraConfig.get().overrides.task)
    resumed = resume.find_resumed_run(config, overrides, run_dir_setup.current_run_dir())
    config = resumed.config if resumed else init_weights.prefer_init_from(config, overrides)
    run = train_with_oom_retry(train_once, config, resumed)
    if run and wants_baseline(config):
        print_status("training the same model from random weights, to compare")
        run_dir_setup.forget_run_dir()
        train_with_oom_retry(train_once, baseline_config(config, run.folder), None)
    return run


def train_once(config: TrainConfig, resumed: ResumedRun | None) -> FinishedRun | None:
    """Train and evaluate one model; return None if only the preflight was asked for."""
    check_train_settings(config)
    check_training_suites(config)

    # Data, encoded with the initial model's tokenizer, if there is one.
    initial: LoadedModel | None = None
    if resumed:
        corpus = resumed.reopen_corpus()
        structure = config.model if config.init_from or config.model.pretrained else None
    else:
        initial = init_weights.load_initial_model(config, HydraConfig.get().overrides.task)
        corpus = init_weights.open_training_corpus(config, initial)
        structure = initial.net.config if initial else None
        config = drop_preset_prompt(config, corpus)
    plan = make_run_plan(config, corpus, structure)
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)

    # Model and recipe.
    configure_torch(config.trainer, plan.accelerator)
    net = make_net(config, plan, corpus, initial)
    device_check = None
    if not run_dir_setup.is_child_process():
        first_batch = TrainingBatches(data.sequences, data.shape)[0]
        device_check = check_device(net, first_batch, plan, config.trainer)
        configure_torch(config.trainer, plan.accelerator)  # perhaps the CPU instead
    random_weights = not resumed and (initial is None or config.from_scratch)
    if random_weights and not all(parameter.requires_grad for parameter in net.parameters()):
        plan.notes.append("some random weights are frozen; to train all of them: finetune=all")
    compiled_step = fast.compile_training(config.trainer, plan, net) if fast else None
    setup = TrainingSetup(config, plan, data, net, resumed)
    data.first_micro_batch = setup.done_steps * plan.shape.accumulate
    check_suites(setup.evaluation, [*config.eval_before, *config.eval_after])
    module = (Classifier if corpus.classes else LanguageModel)(
        *(net, plan.optim, plan.steps, setup.evaluation.byte_counts, config.seed, compiled_step),
        layer_decay=config.finetune.layer_decay,
    )

    # Preflight, in the first process only.
    report = None
    if not run_dir_setup.is_child_process():
        report = run_preflight(setup, random_weights, compiled_step, device_check)
    if report and config.preflight == "only":
        print(opening_lines(setup, report, None), flush=True)
        return None

    # Training.
    with run_dir_setup.open_run_dir(config, plan, resumed.folder if resumed else None) as folder:
        if resumed:
            resumed.restore_last_checkpoint()
        seconds = report.seconds_per_step * (plan.steps - setup.done_steps) if report else 0.0
        trainer = make_trainer(setup, folder, make_callbacks(setup, folder, seconds))
        if fast and config.trainer.fast_loop:
            fast.use_fast_loop(trainer)
        if report:
            print(opening_lines(setup, report, folder), flush=True)
        with close_loggers(trainer):
            with (
                contextlib.suppress(ShutdownRequested, StopAtOnce),
                resume.explain_restore_errors(resumed),
                explain_callback_errors(config),
                interrupts_kept(),
            ):
                trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None)
            raise_if_interrupted(trainer, folder, setup)
            return FinishedRun(folder, evaluate_finished_run(trainer, setup, folder))


def make_net(
    config: TrainConfig, plan: RunPlan, corpus: Corpus, initial: LoadedModel | None
) -> GPT:
    """Make the decoder with random or initial weights; add LoRA and freeze weights."""
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    if initial and not config.from_scratch:
        init_weights.copy_initial_weights(net, initial, corpus.classes)
        plan.initial_checkpoint = f"{initial.path}, step {initial.step:,}"
    add_lora(net, config.finetune)
    freeze(net, config.finetune)
    if not config.trainer.chunked_loss:
        net.max_logits = sys.maxsize
    return net


class RunInterrupted(SystemExit):
    """A signal stopped a run; ends the process with the shell's code, 130 for Ctrl-C."""

    def __init__(self, signal_number: int, folder: Path):
        super().__init__(128 + signal_number)
        self.folder = folder


def raise_if_interrupted(trainer: Trainer, folder: Path, setup: TrainingSetup) -> None:
    """After a signal, print how to resume and raise RunInterrupted."""
    number = find_callback(trainer, GracefulShutdown).received_signal
    if number is None:
        return
    if trainer.is_global_zero:
        plugins = plugins_argument([*plugin_references(setup.config), *setup.checkpoint_parts])
        command = " ".join([command_line("train", f"resume={folder}"), *plugins])
        print_status(f"stopped after step {trainer.global_step:,}; resume with  {command}")
    raise RunInterrupted(number, folder)
