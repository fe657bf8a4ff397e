"""`python -m gptlab.evaluate`: run suites, classify a message, or have responses judged."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from gptlab.config.schema import EvaluateConfig
from gptlab.evaluation.classification import class_names, match_message, rank_classes
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
    path = find_classifier(config)
    model = load_on_device(path, accelerator)
    if not class_names(model):
        train = command_line("train", "data=toy_spam")
        raise UserError(f"run={config.run}: {path} is not a classifier; train one with `{train}`")
    match = match_message(model.tokenizer, text, "error" if config.unknown == "error" else "skip")
    ranked = rank_classes(model, match.ids)
    if match.note:
        print_status(match.note)
    length, window = len(match.ids), model.net.config.window
    if length > window:
        print_status(
            f"the text has {plural(length, 'token')}; the model reads only the first {window:,}"
        )
    print_status(f"{model.path}, step {model.step:,}")
    print(ranked[0][1])
    for probability, name in ranked:
        print(f"  {name:<10} {probability:.4f}")


def find_classifier(config: EvaluateConfig) -> Path:
    """Find the checkpoint of `run=`; `latest` is the newest run that trained a classifier."""
    if config.run != "latest":
        return run_dir.find_checkpoint(config.run, config.run_root)
    root = run_dir.locate_run("run", config.run, config.run_root)
    for folder in run_dir.by_preference(root):
        checkpoint = run_dir.preferred_checkpoint(folder)
        if checkpoint and stored_task(folder) == "classification":
            return checkpoint
    train = command_line("train", "data=toy_spam")
    raise UserError(f"run=latest: no classifier in {root}; train one with `{train}`")


def stored_task(folder: Path) -> str | None:
    """Return `data.task` of a run; None if its configuration cannot be read."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return str(content["data"]["task"])
    return None
