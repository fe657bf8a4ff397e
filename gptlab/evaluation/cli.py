"""`python -m gptlab.evaluate`: run suites, classify a message, or have responses judged."""

from collections.abc import Iterator

from hydra.core.hydra_config import HydraConfig

from gptlab.config.schema import EvaluateConfig
from gptlab.evaluation.classification import class_names, rank_classes
from gptlab.evaluation.eval_context import EvalContext, Results, checkpoint_context
from gptlab.evaluation.judge import judge_responses
from gptlab.evaluation.results_store import RESULTS_FILE, format_results, results_dir, store_results
from gptlab.evaluation.suites import SUITES, check_suites, find_suite
from gptlab.generation.quantize import load_on_device
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.utils import run_dir
from gptlab.utils.console import plural, print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError
from gptlab.utils.program import command_line


def run_evaluate(config: EvaluateConfig) -> None:
    if config.judge.url is not None:
        judge_responses(config, config.judge.url)
    elif config.text is not None:
        classify_text(config, config.text)
    elif config.suite:
        print_evaluation(config)
    else:
        raise UserError(
            f"suite: choose from {', '.join(SUITES)}, as in suite=perplexity; or give a "
            'message to classify, text="You won a prize"'
        )


def print_evaluation(config: EvaluateConfig) -> None:
    """Print the results of each suite as soon as they are known."""
    model, context = open_evaluation(config)
    corpus = f", on {context.corpus.folder.name}" if context.dataset else ""
    print_status(f"{model.path}, step {model.step:,}{corpus}")
    for name, results in evaluate_suites(config, model, context):
        print("\n".join(format_results(name, results)), flush=True)
    assert context.output_dir
    print(f"stored in {context.output_dir / RESULTS_FILE}")


def open_evaluation(config: EvaluateConfig) -> tuple[LoadedModel, EvalContext]:
    """Load the model and what its suites need; raise UserError if a suite cannot run."""
    model = load_model(run_dir.find_checkpoint(config.run, config.run_root))
    overrides = list(HydraConfig.get().overrides.task)
    needs_corpus = any(find_suite(name).needs_corpus for name in config.suite)
    context = checkpoint_context(config, model, overrides, needs_corpus)
    check_suites(context, config.suite)
    context.output_dir = results_dir(model.path)
    return model, context


def evaluate_suites(
    config: EvaluateConfig, model: LoadedModel, context: EvalContext
) -> Iterator[tuple[str, Results]]:
    """Yield the results of each suite; store them in evaluation.json and TensorBoard."""
    assert context.output_dir
    results = Results()
    for name in dict.fromkeys(config.suite):
        suite_results = find_suite(name).evaluate(context)
        results |= suite_results
        store_results(context.output_dir, model, context, results)  # even if a later suite fails
        yield name, suite_results


def classify_text(config: EvaluateConfig, text: str) -> None:
    """Print the most likely class, and the probability of each."""
    accelerator = resolve_accelerator(config.accelerator, "accelerator", operations=0)
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_on_device(path, accelerator)
    if not class_names(model):
        train = command_line("train", "data=toy_spam")
        raise UserError(f"run={config.run}: {path} is not a classifier; train one with `{train}`")
    ranked = rank_classes(model, text, config.unknown)
    length, window = len(model.tokenizer.encode(text.strip())), model.net.config.window
    if length > window:
        print_status(
            f"the text has {plural(length, 'token')}; the model reads only the first {window:,}"
        )
    print_status(f"{model.path}, step {model.step:,}")
    print(ranked[0][1])
    for probability, name in ranked:
        print(f"  {name:<10} {probability:.4f}")
