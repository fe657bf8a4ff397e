"""Register the evaluation suites for training (`eval_before`, `eval_after`) and `evaluate`.

To add a suite, write a function of an EvalContext in a file of its own, and add a line to SUITES.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from gptlab.config.schema import EvaluateConfig, TrainConfig
from gptlab.evaluation import hellaswag, memorisation, perplexity, responses
from gptlab.evaluation.bleu_rouge import evaluate_bleu_rouge
from gptlab.evaluation.eval_context import EvalContext, Results
from gptlab.evaluation.hellaswag import HarnessQuestion
from gptlab.evaluation.text_quality import evaluate_text_quality
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import PluginError, resolve_choice

TEXT_TASKS = ("text", "instructions")  # values of data.task that train a model to generate text


@dataclass(frozen=True)
class Suite:
    """An evaluation and its requirements."""

    evaluate: Callable[[EvalContext], Results]
    tasks: tuple[str, ...] = TEXT_TASKS  # the values of data.task for which it is defined
    needs_corpus: bool = True
    last_checkpoint: bool = False  # after training, evaluate last.ckpt instead of best.ckpt
    # Raises UserError for a configuration with which the suite cannot run.
    check_config: Callable[[TrainConfig | EvaluateConfig], None] | None = None
    # Raises UserError for a model or corpus on which the suite cannot run.
    check_context: Callable[[EvalContext], object] | None = None


SUITES: dict[str, Suite] = {
    "perplexity": Suite(
        perplexity.evaluate_perplexity,
        tasks=(*TEXT_TASKS, "classification"),
        check_context=lambda context: context.batches("valid"),
    ),
    "estimate": Suite(perplexity.evaluate_estimate),
    # The last checkpoint shows what a model memorized: the best one has overfitted least.
    "windows": Suite(perplexity.evaluate_training_windows, last_checkpoint=True),
    "memorisation": Suite(
        memorisation.evaluate_memorisation,
        last_checkpoint=True,
        check_context=memorisation.check_memorisation,
    ),
    "hellaswag": Suite(
        hellaswag.evaluate_hellaswag,
        needs_corpus=False,
        check_config=hellaswag.check_hellaswag_file,
        check_context=hellaswag.check_hellaswag,
    ),
    "hellaswag_harness": Suite(
        partial(hellaswag.evaluate_hellaswag, name="hellaswag_harness", style=HarnessQuestion),
        needs_corpus=False,
        check_config=hellaswag.check_hellaswag_file,
        check_context=partial(hellaswag.check_hellaswag, style=HarnessQuestion),
    ),
    "bleu_rouge": Suite(evaluate_bleu_rouge, check_context=EvalContext.documents_to_continue),
    "text_quality": Suite(evaluate_text_quality),
    "responses": Suite(
        responses.evaluate_responses,
        tasks=("instructions",),
        check_config=responses.check_responses_config,
        check_context=responses.check_responses,
    ),
}


def find_suite(name: str) -> Suite:
    """Return a suite by name; raise UserError if there is none."""
    suite = resolve_choice("suite", name, SUITES)
    if not isinstance(suite, Suite):
        raise PluginError(f"suite={name}: must be a Suite, not {type(suite).__name__}")
    return suite


SAMPLES = "samples"  # in eval_before and eval_after: texts that the SampleWriter callback writes


def run_suites(context: EvalContext, names: Iterable[str]) -> Results:
    """Run suites in this order and merge their results."""
    results: Results = {}
    for name in names:
        if name != SAMPLES:
            results |= find_suite(name).evaluate(context)
    return results


def check_task(name: str, task: str) -> None:
    """Raise UserError for a suite that is not defined for a model of this task."""
    if task not in (tasks := find_suite(name).tasks):
        needed = " or ".join(tasks)
        raise UserError(f"{name}: needs a model of data.task={needed}, not {task}")


def check_suites(context: EvalContext, names: Iterable[str]) -> None:
    """Raise UserError if a suite cannot run, before the first one starts."""
    for name in dict.fromkeys(names):
        if name != SAMPLES:
            check_task(name, context.task)
            if check := find_suite(name).check_context:
                check(context)


def check_training_suites(config: TrainConfig) -> None:
    """Check `eval_before` and `eval_after` before a corpus is built; raises UserError."""
    if "perplexity" not in config.eval_after:
        raise UserError(f"eval_after={config.eval_after}: must include perplexity")
    for name in dict.fromkeys([*config.eval_before, *config.eval_after]):
        if name != SAMPLES:
            check_task(name, config.data.task)
            if check := find_suite(name).check_config:
                check(config)
