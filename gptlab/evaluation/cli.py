"""`python -m gptlab.evaluate`: run suites, classify a message, or have responses judged."""

from hydra.core.hydra_config import HydraConfig

from gptlab.config.schema import EvaluateConfig
from gptlab.evaluation.classification import class_names, rank_classes
from gptlab.evaluation.eval_context import Results, checkpoint_context
from gptlab.evaluation.judge import judge_responses
from gptlab.evaluation.results_store import RESULTS_FILE, format_results, results_dir, store_results
from gptlab.evaluation.suites import SUITES, check_suites, find_suite
from gptlab.model.hf.pretrained import load_model
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError


def run_evaluate(config: EvaluateConfig) -> None:
    if config.judge.url is not None:
        judge_responses(config, config.judge.url)
    elif config.text is not None:
        classify_text(config, config.text)
    elif config.suite:
        evaluate_suites(config)
    else:
        raise UserError(
            f"suite: choose from {', '.join(SUITES)}, as in 'suite=[perplexity]'; or give a "
            'message to classify, text="You won a prize"'
        )


def evaluate_suites(config: EvaluateConfig) -> None:
    """Print the results of each suite; store them in evaluation.json and TensorBoard."""
    suites = {name: find_suite(name) for name in config.suite}
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_model(path)
    overrides = list(HydraConfig.get().overrides.task)
    needs_corpus = any(suite.needs_corpus for suite in suites.values())
    context = checkpoint_context(config, model, overrides, needs_corpus)
    check_suites(context, suites)
    corpus = f", on {context.corpus.folder.name}" if context.dataset else ""
    print_status(f"{model.path}, step {model.step:,}{corpus}")
    folder, results = results_dir(path), Results()
    context.output_dir = folder
    for name, suite in suites.items():
        suite_results = suite.evaluate(context)
        print("\n".join(format_results(name, suite_results)), flush=True)
        results |= suite_results
        store_results(folder, model, context, results)  # kept even if a later suite fails
    print(f"stored in {folder / RESULTS_FILE}")


def classify_text(config: EvaluateConfig, text: str) -> None:
    """Print the most likely class, and the probability of each."""
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_model(path)
    if not class_names(model):
        train = "python train.py data=toy_spam"
        raise UserError(f"run={config.run}: {path} is not a classifier; train one with `{train}`")
    model.net.to(accelerator)
    ranked = rank_classes(model, text, config.unknown)
    length, window = len(model.tokenizer.encode(text.strip())), model.net.config.window
    if length > window:
        print_status(f"the text has {length:,} tokens; the model reads only the first {window:,}")
    print_status(f"{model.path}, step {model.step:,}")
    print(ranked[0][1])
    for probability, name in ranked:
        print(f"  {name:<10} {probability:.4f}")
