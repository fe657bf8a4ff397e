"""One training run, from a checked configuration to the last line on the screen."""

import contextlib
import os
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gptlab import runs, sweeps
from gptlab.config import TrainConfig, flatten
from gptlab.data.build import open_corpus
from gptlab.data.datamodule import TextData
from gptlab.data.loader import TrainingBatches
from gptlab.data.tokenizer import Tokenizer
from gptlab.device import autocast
from gptlab.errors import UserError
from gptlab.generation.engine import sample_prompt
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.announce import closing, opening
from gptlab.training.callbacks import Checkpoints, Interruption, Meter
from gptlab.training.checkpoint import AtomicCheckpointIO
from gptlab.training.checks import check_before_anything, plugged
from gptlab.training.final import final_figures
from gptlab.training.module import LanguageModel
from gptlab.training.plan import Plan, make_plan
from gptlab.training.progress import Progress
from gptlab.training.quiet import quiet
from gptlab.training.samples import Samples, show_attention
from gptlab.training.suites import Before, Examiner, check_spelling, check_suites
from gptlab.training.summary import Summary, command, commit, corpus_facts, machine

FOLDER = "GPTLAB_RUN_FOLDER"


def train(config: TrainConfig) -> float:
    """Trains, and returns the validation loss of the best checkpoint, in nats a token.

    Raises UserError, with nothing left on disk, for whatever can be known before the first step.
    """
    quiet()
    began, cpu_began = datetime.now(), time.process_time()
    check_before_anything(config)
    check_suites(config)
    corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
    plan = make_plan(config, corpus)
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    if config.trainer.compile:
        net.compile()  # in place: torch.compile(net) would rename every weight
    data = TextData(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    token_bytes = bytes_of_tokens(corpus.tokenizer, net.config.vocab_size)
    module = LanguageModel(net, plan.optim, plan.steps, token_bytes, config.seed)
    examiner = Examiner(config, plan, data, token_bytes)
    check_spelling(examiner)
    prompt = sample_prompt(config, corpus)
    seconds = 0.0 if is_child() else estimate_seconds(net, data, plan)

    stored = asdict(config) | {"model": asdict(plan.model)}
    folder = run_folder(config)
    try:
        ours = make_callbacks(examiner, folder, prompt, stored, seconds)
        trainer = make_trainer(config, plan, ours, folder)
    except BaseException:
        folder.rmdir()
        with contextlib.suppress(OSError):  # other runs are in it
            folder.parent.rmdir()
        raise
    if not is_child():
        text = yaml.safe_dump(stored, sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    if trainer.is_global_zero:
        print(opening(config, plan, corpus, net, seconds, folder), flush=True)
    trainer.fit(module, datamodule=data)
    leave_if_interrupted(trainer, folder)
    return finish(trainer, examiner, folder, began, cpu_began).after["valid/loss"]


def finish(
    trainer: Trainer, examiner: Examiner, folder: Path, began: datetime, cpu_began: float
) -> Summary:
    """Scores the checkpoints, as they stand on disk, and tells and stores what came of the run."""
    config, plan, data = examiner.config, examiner.plan, examiner.data
    found, after = final_figures(examiner, folder)
    (before,) = (c for c in trainer.callbacks if isinstance(c, Before))
    summary = Summary(
        overrides=sweeps.choices(),
        experiment=HydraConfig.get().runtime.choices.get("experiment"),
        command=command(),
        began=began.isoformat(timespec="seconds"),
        seconds=(datetime.now() - began).total_seconds(),
        cpu_seconds=time.process_time() - cpu_began,
        machine=machine(plan),
        commit=commit(),
        parameters=count_parameters(found.net),
        steps=trainer.global_step,
        tokens=before.meter.tokens_seen,
        epochs=trainer.global_step * plan.shape.rows_per_step / plan.rows_per_epoch,
        corpus=corpus_facts(data.corpus),
        scored=f"{found.path.name}, step {found.step}",
        before=before.results,
        after=after,
    )
    if trainer.is_global_zero:
        summary.write(folder)
        with contextlib.suppress(UserError):  # of a model that has diverged
            show_attention(trainer, found, sample_prompt(config, data.corpus), config)
        log_choices(trainer, config, summary)
        best_possible = data.best_possible(config.data.final_tokens)
        stories = data.validation("valid", config.data.final_tokens).rows
        print(closing(config, folder, summary, best_possible, stories))
    return summary


COMPARED = ("model.n_layer", "model.n_head", "model.d_model", "optim.lr", "seed")


def log_choices(trainer: Trainer, config: TrainConfig, summary: Summary) -> None:
    """TensorBoard's HPARAMS tab: what was chosen for this run beside what came of it.

    Of all keys those that are compared most, and those typed: the tab shows but a few columns.
    What was measured before the first step also gets its point after the last.
    """
    flat, hydra = flatten(config), HydraConfig.get()
    chosen = {key: flat[key] for key in COMPARED}
    for typed in hydra.overrides.task:
        key, _, value = typed.lstrip("+").partition("=")
        chosen[key] = flat.get(key, value)
    plain = {
        key: value if isinstance(value, bool | int | float) else str(value)
        for key, value in chosen.items()
    }
    after = summary.after
    figures = {f"final/{name.replace('/', '_')}": value for name, value in after.items()}
    compared = {name: value for name, value in figures.items() if name.startswith("final/valid")}
    again = {name: after[name] for name in summary.before if name in after}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(plain, compared, step=trainer.global_step)
            logger.log_metrics(figures | again, step=trainer.global_step)
            logger.save()
            logger.finalize("success")
        else:
            logger.log_hyperparams(plain)
            logger.log_metrics(figures, step=trainer.global_step)


def leave_if_interrupted(trainer: Trainer, folder: Path) -> None:
    """Raises SystemExit with the shell's code for the signal, 130 for Ctrl-C, if one came."""
    (interruption,) = (c for c in trainer.callbacks if isinstance(c, Interruption))
    if interruption.signal is not None:
        if trainer.is_global_zero:
            kept = folder / "checkpoints" / "last.ckpt"
            print(f"stopped after step {trainer.global_step:,}; kept in {kept}", file=sys.stderr)
        raise SystemExit(128 + interruption.signal)


def is_child() -> bool:
    """Whether Lightning started this process beside a first one that has made the run folder."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and FOLDER in os.environ


def run_folder(config: TrainConfig) -> Path:
    """A new folder: named after the run's choices, or within its sweep's folder.

    Lightning starts the other processes of a run on several devices with this command again:
    they find the folder of the first in the environment.
    """
    if is_child():
        return Path(os.environ[FOLDER])
    hydra = HydraConfig.get()
    if sweeps.is_job():
        job = sweeps.job_folder()
        folder = runs.create(job.parent, job.name)
    else:
        choices = hydra.runtime.choices
        name = choices.get("experiment") or f"{choices['model']}_{choices['data']}"
        root = Path(config.run_root).expanduser()
        folder = runs.create(root, f"{datetime.now():%Y-%m-%d_%H%M%S}_{config.name or name}")
    os.environ[FOLDER] = str(folder)
    return folder


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """For each id of the model's vocabulary the bytes it writes; padding ids write none."""
    lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    return torch.tensor(lengths + [0] * (vocab_size - len(lengths)))


def estimate_seconds(net: GPT, data: TextData, plan: Plan) -> float:
    """How long the run will take: from a micro-batch, forward and backward, after a first one
    that warms up (and compiles).

    On the device of the run; the gradients are thrown away and no weight moves.
    """
    net.to(plan.accelerator).train()
    batch = TrainingBatches(data.windows, data.shape)[0]
    source, target = (batch[name].to(plan.accelerator) for name in ("input", "target"))
    for _ in range(2):
        began = time.perf_counter()
        with autocast(plan.precision, plan.accelerator):
            logits = net(source)
        summed_cross_entropy(logits, target).backward()
        torch.zeros(1, device=plan.accelerator).item()  # waits until the device is done
        seconds = time.perf_counter() - began
        net.zero_grad(set_to_none=True)
        if seconds > 2 and net._compiled_call_impl is None:
            break  # so slow that warming up makes no difference
    net.to("cpu")
    return seconds * plan.shape.accumulate * plan.steps


def make_callbacks(
    examiner: Examiner,
    folder: Path,
    prompt: list[int],
    stored: dict[str, Any],
    seconds: float,
) -> list[Callback]:
    """What every run has; the order is that in which they act after a step."""
    config, plan, data = examiner.config, examiner.plan, examiner.data
    tokenizer = data.corpus.tokenizer
    best_possible = data.best_possible(config.data.valid_tokens)
    meter = Meter(folder, plan, config.trainer, best_possible)
    return [
        meter,
        Before(examiner, meter),
        Interruption(),
        Progress(meter, plan.steps, seconds),
        Samples(folder, plan, meter, tokenizer, prompt, config),
        Checkpoints(
            *(folder, plan, meter, {"config": stored, "tokenizer": tokenizer.state()}),
            every=plan.checkpoint_every,
            every_epoch=config.trainer.checkpoint_every_epoch,
            keep_steps=config.trainer.keep_steps,
        ),
    ]


def make_trainer(config: TrainConfig, plan: Plan, ours: list[Callback], folder: Path) -> Trainer:
    """Lightning's Trainer; raises UserError for a trainer.extra that it does not take."""
    wanted = config.trainer
    validate_every = plan.eval_every * plan.shape.accumulate
    arguments = {
        "accelerator": plan.accelerator,
        "devices": wanted.devices,
        "num_nodes": wanted.num_nodes,
        "strategy": wanted.strategy,
        "precision": plan.precision,
        "max_steps": plan.steps,
        "max_epochs": -1,  # the loader never ends; an epoch is counted in rows
        "accumulate_grad_batches": plan.shape.accumulate,
        "val_check_interval": validate_every or None,
        "limit_val_batches": 1.0 if validate_every else 0,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "deterministic": wanted.deterministic,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "plugins": [AtomicCheckpointIO()],
        "callbacks": ours + plugged(config.callbacks, Callback),
        "logger": plugged(config.logger, Logger, save_dir=str(folder)),
    }
    try:
        return Trainer(**arguments | wanted.extra)
    except (TypeError, ValueError, MisconfigurationException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Lightning cannot train with these trainer settings: {reason}") from None
