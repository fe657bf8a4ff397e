"""Evaluate the checkpoints of a trained run, write summary.json, print the results."""

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gptlab.config import sweeps
from gptlab.config.keys import flatten
from gptlab.config.schema import TrainConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation.eval_context import Results
from gptlab.evaluation.interpretability_plots import log_interpretability
from gptlab.evaluation.suites import SAMPLES, find_suite, run_suites
from gptlab.model import checkpoint
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import count_parameters
from gptlab.training import run_summary
from gptlab.training.callbacks.initial_evaluation import InitialEvaluation
from gptlab.training.checkpoint_io import link_or_copy
from gptlab.training.random_init_baseline import compare_to_baseline
from gptlab.training.resume import ResumedRun
from gptlab.training.run_messages import closing_lines
from gptlab.training.run_plan import TrainingSetup
from gptlab.training.run_summary import RunSummary
from gptlab.training.trainer import find_callback
from gptlab.utils.errors import UserError, is_gpu_out_of_memory
from gptlab.utils.plugins import plugins_argument
from gptlab.utils.system import rename, shell_quote


def evaluate_checkpoints(setup: TrainingSetup, folder: Path) -> tuple[LoadedModel, Results]:
    """Run the suites of `eval_after` on the best checkpoint, and some on the last one.

    best.ckpt and last.ckpt are compared on the whole held-out text, and the better one is kept as
    best.ckpt. If that is an earlier step, the last one's validation is included as `last/…`.
    Returns the best model and all results.
    """
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"

    def load(path: Path) -> LoadedModel:
        model = checkpoint.load_checkpoint(path)
        model.net.to(setup.plan.accelerator)
        return model

    def run(suites: list[str], model: LoadedModel) -> Results:
        return run_suites(replace(setup.evaluation, net=model.net), suites)

    last_model = best_model = load(last)
    results = run(["perplexity"], last_model)
    if best.exists() and (earlier := load(best)).step != last_model.step:
        earlier_results = run(["perplexity"], earlier)
        if results["valid/loss"] <= earlier_results["valid/loss"]:
            rename(link_or_copy(last, best), best)
        else:
            valid = [name for name in results if name.startswith("valid/")]
            last_valid = {name.replace("valid", "last", 1): results[name] for name in valid}
            best_model, results = earlier, earlier_results | last_valid
    rest = [name for name in setup.config.eval_after if name not in ("perplexity", SAMPLES)]
    on_last = [name for name in rest if find_suite(name).last_checkpoint]
    results |= run([name for name in rest if name not in on_last], best_model)
    return best_model, results | run(on_last, last_model)


def evaluate_finished_run(trainer: Trainer, setup: TrainingSetup, folder: Path) -> RunSummary:
    """Evaluate and summarize a trained run, and compare it if it is a baseline.

    Raises UserError if the GPU has no memory left: resuming the run repeats the evaluation.
    """
    try:
        summary = finish_run(trainer, setup, folder)
    except Exception as error:
        if not is_gpu_out_of_memory(error):
            raise
        raise UserError(
            "out of memory in the final evaluation: the trained run is kept; free some memory, "
            f"then type {shell_quote(f'resume={folder}')}"
        ) from None
    if setup.config.baseline_of and trainer.is_global_zero:
        compare_to_baseline(folder.parent / setup.config.baseline_of, folder, summary)
    return summary


def finish_run(trainer: Trainer, setup: TrainingSetup, folder: Path) -> RunSummary:
    """Evaluate the checkpoints; log, store and print the results.

    summary.json marks a run as finished, so it is written last.
    """
    config, plan, data, resumed = setup.config, setup.plan, setup.data, setup.resumed
    setup.evaluation.output_dir = folder if trainer.is_global_zero else None
    model, after = evaluate_checkpoints(setup, folder)
    if (best_possible := data.best_possible_loss(config.data.final_tokens)) is not None:
        after["valid/best_possible"] = best_possible
    initial_evaluation = find_callback(trainer, InitialEvaluation)
    metrics_logger, overrides = initial_evaluation.metrics_logger, original_overrides(resumed)
    experiments = [o.partition("=")[2] for o in overrides if sweeps.override_key(o) == "experiment"]
    elapsed_time = metrics_logger.elapsed_time
    summary = RunSummary(
        overrides=sweeps.varied_overrides(),
        experiment=experiments[-1] if experiments else None,
        command=resumed.command if resumed else run_summary.typed_command(),
        began=elapsed_time.began,
        seconds=elapsed_time.seconds(),
        cpu_seconds=elapsed_time.cpu_seconds(),
        machine=run_summary.machine_metadata(plan),
        commit=run_summary.git_commit(),
        parameters=count_parameters(model.net),
        steps=trainer.global_step,
        tokens=metrics_logger.tokens_seen,
        epochs=plan.epochs(trainer.global_step),
        corpus=run_summary.corpus_metadata(data.corpus),
        scored=f"{model.path.name}, step {model.step}",
        before=initial_evaluation.results,
        after=after,
    )
    if trainer.is_global_zero:
        loggers = make_closing_loggers(trainer, folder)
        with contextlib.suppress(UserError):  # the model diverged
            log_interpretability(loggers, model, setup.prompt, config)
        log_hyperparameters(loggers, config, overrides, summary)
        summary.write(folder)
        stories = data.validation_batches("valid", config.data.final_tokens).num_sequences
        messages = data.corpus.documents("valid", 50 if data.corpus.classes else 0)
        texts = (decode(data.corpus.tokenizer, message) for message in messages)
        example = min(texts, key=len, default="")
        plugins = plugins_argument(setup.checkpoint_parts)
        print(closing_lines(config, folder, summary, stories, example, plugins))
    return summary


def original_overrides(resumed: ResumedRun | None) -> list[str]:
    """Return the overrides of the command that started the run."""
    if resumed is None or sweeps.is_sweep_job():
        return list(HydraConfig.get().overrides.task)
    return [word for word in shlex.split(resumed.command)[2:] if "=" in word]


def make_closing_loggers(trainer: Trainer, folder: Path) -> list[Logger]:
    """Make loggers for the final results; TensorBoard's write to a separate file.

    It replaces the file of a stopped evaluation, or of a run that has been extended since.
    """
    for path in folder.rglob("*.final"):
        path.unlink()
    loggers = []
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            place = (logger.save_dir, logger.name, logger.version)
            logger = TensorBoardLogger(*place, default_hp_metric=False, filename_suffix=".final")
        loggers.append(logger)
    return loggers


HPARAM_KEYS = ("model.n_layer", "model.n_head", "model.d_model", "optim.lr", "seed")


def log_hyperparameters(
    loggers: list[Logger], config: TrainConfig, overrides: list[str], summary: RunSummary
) -> None:
    """Log settings and final results, for TensorBoard's HPARAMS tab.

    The tab has few columns, so it shows the most compared keys and the typed ones. Metrics of the
    initial evaluation also get a point at the last step.
    """
    flat = flatten(config)
    settings = {key: flat[key] for key in HPARAM_KEYS}
    for override in overrides:
        key = sweeps.override_key(override)
        settings[key] = flat.get(key, override.partition("=")[2])
    numbers = {key: value for key, value in settings.items() if isinstance(value, int | float)}
    hparams = {key: str(value) for key, value in settings.items()} | numbers
    after, step = summary.after, summary.steps
    final = {f"final/{name.replace('/', '_')}": value for name, value in after.items()}
    compared = {name: value for name, value in final.items() if name.startswith("final/valid")}
    repeated = {name: after[name] for name in summary.before if name in after}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hparams, compared, step=step)
            logger.log_metrics(final | repeated, step=step)
            logger.save()
            logger.finalize("success")
        else:  # has the whole configuration since its start
            logger.log_metrics(final, step=step)
