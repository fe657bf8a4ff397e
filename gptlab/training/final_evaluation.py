"""What is measured and told when training is over, from the checkpoints as they stand on disk."""

import contextlib
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gptlab.config import sweeps
from gptlab.config.keys import flatten
from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.generation.engine import training_prompt
from gptlab.model import checkpoint
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import count_parameters
from gptlab.training.console import closing_lines
from gptlab.training.inside import log_interpretability
from gptlab.training.resume import ResumedRun
from gptlab.training.run_summary import (
    RunSummary,
    corpus_facts,
    git_commit,
    machine_facts,
    typed_command,
)
from gptlab.training.suites import (
    LAST_CHECKPOINT_SUITES,
    InitialEvaluation,
    Results,
    TrainingEvaluator,
)
from gptlab.utils.atomic_io import link_or_copy
from gptlab.utils.errors import UserError


def evaluate_checkpoints(examiner: TrainingEvaluator, folder: Path) -> tuple[LoadedModel, Results]:
    """The best model, which best.ckpt holds from then on, and the figures of `after`.

    The last step need not have been validated while training: here it is, on the whole held-out
    text. Where an earlier one is better, the last one's validation is given beside, as `last/…`.
    """
    config = examiner.config
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"

    def load(path: Path) -> LoadedModel:
        loaded = checkpoint.load_checkpoint(path)
        loaded.net.to(examiner.plan.accelerator)
        return loaded

    def run(suites: list[str], loaded: LoadedModel) -> Results:
        return examiner.run(suites, loaded.net, config.data.final_tokens)

    at_end = chosen = load(last)
    results = run(["perplexity"], at_end)
    if best.exists() and (kept := load(best)).step != at_end.step:
        earlier = run(["perplexity"], kept)
        if results["valid/loss"] <= earlier["valid/loss"]:
            link_or_copy(last, best).replace(best)
        else:
            last_valid = {n: v for n, v in results.items() if n.startswith("valid/")}
            beside = {n.replace("valid/", "last/"): v for n, v in last_valid.items()}
            chosen, results = kept, earlier | beside
    rest = [name for name in config.eval_after if name != "perplexity"]
    results |= run([name for name in rest if name not in LAST_CHECKPOINT_SUITES], chosen)
    return chosen, results | run([name for name in rest if name in LAST_CHECKPOINT_SUITES], at_end)


def finish_run(
    trainer: Trainer, examiner: TrainingEvaluator, folder: Path, resumed: ResumedRun | None
) -> RunSummary:
    """Scores the checkpoints, tells and stores what came of the run; the summary is what says
    that it has ended, so it is written last."""
    config, plan, data = examiner.config, examiner.plan, examiner.data
    examiner.folder = folder if trainer.is_global_zero else None
    found, after = evaluate_checkpoints(examiner, folder)
    if (best_possible := data.best_possible(config.data.final_tokens)) is not None:
        after["valid/best_possible"] = best_possible
    (before,) = (c for c in trainer.callbacks if isinstance(c, InitialEvaluation))
    metrics_logger, typed = before.metrics_logger, first_typed(resumed)
    elapsed_time = metrics_logger.elapsed_time
    summary = RunSummary(
        overrides=sweeps.varied_overrides(),
        experiment=experiment(typed),
        command=resumed.command if resumed else typed_command(),
        began=elapsed_time.began,
        seconds=elapsed_time.seconds(),
        cpu_seconds=elapsed_time.cpu_seconds(),
        machine=machine_facts(plan),
        commit=git_commit(),
        parameters=count_parameters(found.net),
        steps=trainer.global_step,
        tokens=metrics_logger.tokens_seen,
        epochs=trainer.global_step * plan.shape.rows_per_step / plan.rows_per_epoch,
        corpus=corpus_facts(data.corpus),
        scored=f"{found.path.name}, step {found.step}",
        before=before.results,
        after=after,
    )
    if trainer.is_global_zero:
        loggers = make_closing_loggers(trainer, folder)
        with contextlib.suppress(UserError):  # of a model that has diverged
            log_interpretability(loggers, found, training_prompt(config, data.corpus), config)
        log_hyperparameters(loggers, config, typed, summary)
        summary.write(folder)
        stories = data.validation("valid", config.data.final_tokens).rows
        print(closing_lines(config, folder, summary, stories, example(data.corpus)))
    return summary


def example(corpus: Corpus) -> str:
    """A short held-out message, of a corpus of such."""
    if not corpus.classes:
        return ""
    ends, stream = corpus.ends("valid")[:50].tolist(), corpus.tokens("valid")
    spans = zip([0, *ends], ends, strict=False)
    return min((decode(corpus.tokenizer, stream[b:e].tolist()) for b, e in spans), key=len)


def first_typed(resumed: ResumedRun | None) -> list[str]:
    """What was typed when the run began."""
    if resumed is None or sweeps.is_sweep_job():
        return list(HydraConfig.get().overrides.task)
    return [word for word in shlex.split(resumed.command)[2:] if "=" in word]


def experiment(typed: list[str]) -> str | None:
    chosen = [a.partition("=")[2] for a in typed if sweeps.override_key(a) == "experiment"]
    return chosen[-1] if chosen else None


def make_closing_loggers(trainer: Trainer, folder: Path) -> list[Logger]:
    """The run's loggers for what is told at its end: TensorBoard's write a file of their own,
    made anew when a run was stopped just here, or was made longer."""
    for left in folder.rglob("*.final"):
        left.unlink()
    loggers = []
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            place = (logger.save_dir, logger.name, logger.version)
            logger = TensorBoardLogger(*place, default_hp_metric=False, filename_suffix=".final")
        loggers.append(logger)
    return loggers


HPARAM_KEYS = ("model.n_layer", "model.n_head", "model.d_model", "optim.lr", "seed")


def log_hyperparameters(
    loggers: list[Logger], config: TrainConfig, typed: list[str], summary: RunSummary
) -> None:
    """TensorBoard's HPARAMS tab: what was chosen for this run beside what came of it.

    Of all keys those that are compared most, and those typed: the tab shows but a few columns.
    What was measured before the first step also gets its point after the last.
    """
    flat = flatten(config)
    chosen = {key: flat[key] for key in HPARAM_KEYS}
    for argument in typed:
        chosen[sweeps.override_key(argument)] = flat.get(
            sweeps.override_key(argument), argument.partition("=")[2]
        )
    plain = {
        key: value if isinstance(value, bool | int | float) else str(value)
        for key, value in chosen.items()
    }
    after, step = summary.after, summary.steps
    figures = {f"final/{name.replace('/', '_')}": value for name, value in after.items()}
    compared = {name: value for name, value in figures.items() if name.startswith("final/valid")}
    again = {name: after[name] for name in summary.before if name in after}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(plain, compared, step=step)
            logger.log_metrics(figures | again, step=step)
            logger.save()
            logger.finalize("success")
        else:
            logger.log_hyperparams(plain)
            logger.log_metrics(figures, step=step)
