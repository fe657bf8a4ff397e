"""What `python -m gptlab.evaluate` does."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gptlab import runs
from gptlab.config import EvaluateConfig
from gptlab.data.tokenizer import Vocabulary
from gptlab.device import resolve_accelerator
from gptlab.errors import UserError
from gptlab.evaluation import judge
from gptlab.evaluation.classification import probabilities
from gptlab.files import say
from gptlab.model.pretrained import open_model


def evaluate(config: EvaluateConfig) -> None:
    """Classifies a text, or has a judge read a run's responses; raises UserError."""
    if config.judge.url is not None:
        judge_responses(config)
    elif config.text is not None:
        tell_class(config, config.text)
    else:
        raise UserError('text: give a message, as in text="You won a prize", or judge.url=URL')


def tell_class(config: EvaluateConfig, text: str) -> None:
    """Prints the likeliest class and how likely each is."""
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    path = runs.find_checkpoint(config.run, config.run_root)
    model = open_model(path)
    classes = model.facts.get("classes")
    known = isinstance(classes, list) and len(classes) == model.net.config.n_classes
    if not model.net.config.n_classes or not known:
        raise UserError(
            f"run={config.run}: {path} writes and tells no classes apart; train one that does "
            "with `python train.py data=toy_spam`"
        )
    if not text.strip():
        raise UserError("text: is empty")
    if isinstance(model.tokenizer, Vocabulary):
        model.tokenizer.unknown = config.unknown
    found = probabilities(model.net.to(accelerator), model.tokenizer, text, model.eot_first)
    say(f"{model.path}, step {model.step:,}")
    told = sorted(zip(found, map(str, classes), strict=True), reverse=True)
    print(told[0][1])
    for probability, name in told:
        print(f"  {name:<10} {probability:.4f}")


def judge_responses(config: EvaluateConfig) -> None:
    """Adds the judge's points to responses.json, each as it comes: broken off, it goes on."""
    path = runs.find_checkpoint(config.run, config.run_root).parent.parent / "responses.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not records or not all(map(is_response, records)):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: no responses to judge; a run writes them with 'after=[perplexity,responses]'"
        ) from None
    todo = [record for record in records if "points" not in record]
    for record in tqdm(todo, desc="judge", disable=None, leave=False):
        record["points"] = judge.ask(record, config.judge)
        write(path, records)
    points = [record["points"] for record in records]
    print(f"{path}: {sum(points) / len(points):.1f} of 100 points on average, {len(points)} judged")


def is_response(record: Any) -> bool:
    """Whether this is a record as a run writes it, and perhaps a judge has read it."""
    texts = (record.get(name) for name in ("instruction", "input", "output", "response"))
    return all(isinstance(t, str) for t in texts) and isinstance(record.get("points", 0), int)


def write(path: Path, records: list[dict]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    temporary.replace(path)
