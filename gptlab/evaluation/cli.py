"""What `python -m gptlab.evaluate` does."""

import json
from typing import Any

from hydra.core.hydra_config import HydraConfig
from tqdm import tqdm

from gptlab.config.schema import EvaluateConfig
from gptlab.data.tokenizer import VocabularyTokenizer
from gptlab.evaluation import judge
from gptlab.evaluation.classification import class_probabilities
from gptlab.evaluation.context import open_context
from gptlab.evaluation.results_store import (
    RESULTS_FILE,
    format_value,
    results_dir,
    store_results,
    to_json_bytes,
)
from gptlab.evaluation.suites import SUITES, WITHOUT_TEXT, check_suites
from gptlab.model.hf.pretrained import load_model
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.console import print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError, resolve_choice


def evaluate(config: EvaluateConfig) -> None:
    """Runs suites, classifies a text, or has a judge read a run's responses; raises UserError."""
    if config.judge.url is not None:
        judge_responses(config)
    elif config.text is not None:
        classify_text(config, config.text)
    elif config.suite:
        run_suites(config)
    else:
        raise UserError(
            f"suite: name some of {', '.join(SUITES)}, as in 'suite=[perplexity]'; or give a "
            'message to classify, text="You won a prize"'
        )


def run_suites(config: EvaluateConfig) -> None:
    """Prints a table of figures, and keeps it in the run: evaluation.json, and TensorBoard."""
    chosen = {name: resolve_choice("suite", name, SUITES) for name in config.suite}
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_model(path)
    if model.net.config.n_classes:
        raise UserError(f"run={config.run}: {path} tells classes apart; its figures are its run's")
    typed = list(HydraConfig.get().overrides.task)
    subject = open_context(config, model, typed, needs_text=bool(set(chosen) - WITHOUT_TEXT))
    check_suites(subject, chosen)
    of = f"; {subject.corpus.folder.name}" if subject.text else ""
    print_status(f"{model.path}, step {model.step:,}{of}")
    folder, figures = results_dir(path), {}
    for name, suite in chosen.items():
        figures[name] = suite(subject)
        print("\n".join(results_table(name, figures[name])), flush=True)
        store_results(folder, subject, figures)  # a suite that fails takes nothing with it
    print(f"kept in {folder / RESULTS_FILE}")


def results_table(name: str, figures: dict[str, Any]) -> list[str]:
    """A line for each figure; nested ones side by side."""
    columns = [key for key, value in figures.items() if isinstance(value, dict)]
    lines = [name]
    for key, value in figures.items():
        if not isinstance(value, dict):
            lines.append(f"  {key:<26}{format_value(value)}")
    if columns:
        lines.append(" " * 28 + "".join(f"{column:<14}" for column in columns))
        for key in figures[columns[0]]:
            cells = (format_value(figures[column].get(key)) for column in columns)
            lines.append(f"  {key:<26}" + "".join(f"{cell:<14}" for cell in cells).rstrip())
    return lines


def classify_text(config: EvaluateConfig, text: str) -> None:
    """Prints the likeliest class and how likely each is."""
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_model(path)
    classes = model.metadata.get("classes")
    known = isinstance(classes, list) and len(classes) == model.net.config.n_classes
    if not model.net.config.n_classes or not known:
        raise UserError(
            f"run={config.run}: {path} writes and tells no classes apart; train one that does "
            "with `python train.py data=toy_spam`"
        )
    if not text.strip():
        raise UserError("text: is empty")
    if isinstance(model.tokenizer, VocabularyTokenizer):
        model.tokenizer.unknown = config.unknown
    text = text.strip()  # as the messages were that it was trained on
    ids = len(model.tokenizer.encode(text))
    if not ids:
        raise UserError("text: nothing of it is in the model's vocabulary")
    if ids > model.net.config.window:
        print_status(
            f"the text has {ids:,} tokens: the model sees its first {model.net.config.window:,}"
        )
    found = class_probabilities(model.net.to(accelerator), model.tokenizer, text, model.eot_first)
    print_status(f"{model.path}, step {model.step:,}")
    told = sorted(zip(found, map(str, classes), strict=True), reverse=True)
    print(told[0][1])
    for probability, name in told:
        print(f"  {name:<10} {probability:.4f}")


def judge_responses(config: EvaluateConfig) -> None:
    """Adds the judge's points to responses.json, each as it comes: broken off, it goes on."""
    path = run_dir.find_checkpoint(config.run, config.run_root).parent.parent / "responses.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not records or not all(map(is_response, records)):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: no responses to judge; a run writes them with "
            "'eval_after=[perplexity,responses]'"
        ) from None
    todo = [record for record in records if "points" not in record]
    for record in tqdm(todo, desc="judge", disable=None, leave=False):
        record["points"] = judge.judge_response(record, config.judge)
        write_files_atomically(path.parent, {path.name: to_json_bytes(records)})
    points = [record["points"] for record in records]
    print(f"{path}: {sum(points) / len(points):.1f} of 100 points on average, {len(points)} judged")


def is_response(record: Any) -> bool:
    """Whether this is a record as a run writes it, and perhaps a judge has read it."""
    texts = (record.get(name) for name in ("instruction", "input", "output", "response"))
    return all(isinstance(t, str) for t in texts) and isinstance(record.get("points", 0), int)
