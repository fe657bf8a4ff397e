"""What is measured and told when training is over, from the checkpoints as they stand on disk."""

import contextlib
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gptlab import sweeps
from gptlab.commands import TrainConfig
from gptlab.config import flatten
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.errors import UserError
from gptlab.generation.engine import sample_prompt
from gptlab.model import checkpoint
from gptlab.model.checkpoint import Loaded
from gptlab.model.gpt import count_parameters
from gptlab.training.announce import closing
from gptlab.training.checkpoint import copy
from gptlab.training.inside import show_inside
from gptlab.training.resume import Resumed
from gptlab.training.suites import OF_THE_LAST, Before, Examiner, Results
from gptlab.training.summary import Summary, command, commit, corpus_facts, machine


def final_figures(examiner: Examiner, folder: Path) -> tuple[Loaded, Results]:
    """The best model, which best.ckpt holds from then on, and the figures of `after`.

    The last step need not have been validated while training: here it is, on the whole held-out
    text. Where an earlier one is better, the last one's validation is given beside, as `last/…`.
    """
    config = examiner.config
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"

    def load(path: Path) -> Loaded:
        loaded = checkpoint.load(path)
        loaded.net.to(examiner.plan.accelerator)
        return loaded

    def run(suites: list[str], loaded: Loaded) -> Results:
        return examiner.run(suites, loaded.net, config.data.final_tokens)

    at_end = chosen = load(last)
    results = run(["perplexity"], at_end)
    if best.exists() and (kept := load(best)).step != at_end.step:
        earlier = run(["perplexity"], kept)
        if results["valid/loss"] <= earlier["valid/loss"]:
            copy(last, best).replace(best)
        else:
            last_valid = {n: v for n, v in results.items() if n.startswith("valid/")}
            beside = {n.replace("valid/", "last/"): v for n, v in last_valid.items()}
            chosen, results = kept, earlier | beside
    rest = [name for name in config.after if name != "perplexity"]
    results |= run([name for name in rest if name not in OF_THE_LAST], chosen)
    return chosen, results | run([name for name in rest if name in OF_THE_LAST], at_end)


def finish(trainer: Trainer, examiner: Examiner, folder: Path, resumed: Resumed | None) -> Summary:
    """Scores the checkpoints, tells and stores what came of the run; the summary is what says
    that it has ended, so it is written last."""
    config, plan, data = examiner.config, examiner.plan, examiner.data
    examiner.folder = folder if trainer.is_global_zero else None
    found, after = final_figures(examiner, folder)
    if (best_possible := data.best_possible(config.data.final_tokens)) is not None:
        after["valid/best_possible"] = best_possible
    (before,) = (c for c in trainer.callbacks if isinstance(c, Before))
    meter, typed = before.meter, first_typed(resumed)
    summary = Summary(
        overrides=sweeps.choices(),
        experiment=experiment(typed),
        command=resumed.command if resumed else command(),
        began=meter.clock.began,
        seconds=meter.clock.seconds(),
        cpu_seconds=meter.clock.cpu_seconds(),
        machine=machine(plan),
        commit=commit(),
        parameters=count_parameters(found.net),
        steps=trainer.global_step,
        tokens=meter.tokens_seen,
        epochs=trainer.global_step * plan.shape.rows_per_step / plan.rows_per_epoch,
        corpus=corpus_facts(data.corpus),
        scored=f"{found.path.name}, step {found.step}",
        before=before.results,
        after=after,
    )
    if trainer.is_global_zero:
        loggers = closing_loggers(trainer, folder)
        with contextlib.suppress(UserError):  # of a model that has diverged
            show_inside(loggers, found, sample_prompt(config, data.corpus), config)
        log_choices(loggers, config, typed, summary)
        summary.write(folder)
        stories = data.validation("valid", config.data.final_tokens).rows
        print(closing(config, folder, summary, stories, example(data.corpus)))
    return summary


def example(corpus: Corpus) -> str:
    """A short held-out message, of a corpus of such."""
    if not corpus.classes:
        return ""
    ends, stream = corpus.ends("valid")[:50].tolist(), corpus.tokens("valid")
    spans = zip([0, *ends], ends, strict=False)
    return min((decode(corpus.tokenizer, stream[b:e].tolist()) for b, e in spans), key=len)


def first_typed(resumed: Resumed | None) -> list[str]:
    """What was typed when the run began."""
    if resumed is None or sweeps.is_job():
        return list(HydraConfig.get().overrides.task)
    return [word for word in shlex.split(resumed.command)[2:] if "=" in word]


def experiment(typed: list[str]) -> str | None:
    chosen = [a.partition("=")[2] for a in typed if sweeps.key(a) == "experiment"]
    return chosen[-1] if chosen else None


def closing_loggers(trainer: Trainer, folder: Path) -> list[Logger]:
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


COMPARED = ("model.n_layer", "model.n_head", "model.d_model", "optim.lr", "seed")


def log_choices(
    loggers: list[Logger], config: TrainConfig, typed: list[str], summary: Summary
) -> None:
    """TensorBoard's HPARAMS tab: what was chosen for this run beside what came of it.

    Of all keys those that are compared most, and those typed: the tab shows but a few columns.
    What was measured before the first step also gets its point after the last.
    """
    flat = flatten(config)
    chosen = {key: flat[key] for key in COMPARED}
    for argument in typed:
        chosen[sweeps.key(argument)] = flat.get(sweeps.key(argument), argument.partition("=")[2])
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
