"""Offer example prompts of a run's own kind: from its held-out texts, instructions or messages."""

import contextlib
import functools
import json
import re
from pathlib import Path
from typing import Any

from gptlab.app.run_history import FileState, config_group, file_state, read_config, read_dict
from gptlab.data.corpus import Corpus
from gptlab.data.prompt_templates import PROMPT_TEMPLATES
from gptlab.data.tokenizer import decode
from gptlab.utils.errors import UserError

MAX_EXAMPLES = 4
MAX_WORDS = 5  # of a text's beginning
MAX_TOKENS = 160  # read of each document
MAX_LENGTH = 200  # characters of an instruction or message
DEFAULTS = {
    "text": "Once upon a time",
    "instructions": "Swap the two words.",
    "classification": "You won a prize! Call now.",
}
Example = dict[str, str]  # prompt, and perhaps the input of an instruction


def example_prompts(folder: Path) -> list[Example]:
    """Return up to MAX_EXAMPLES different prompts; at least one, even without the corpus."""
    return read_examples(file_state(folder / "config.yaml"), file_state(folder / "summary.json"))


def default_example(task: str | None) -> Example:
    return {"prompt": DEFAULTS.get(task or "text", DEFAULTS["text"])}


@functools.lru_cache(100)
def read_examples(config_file: FileState, summary_file: FileState) -> list[Example]:
    config = read_config(*config_file)
    data = config_group(config, "data")
    task = str(data.get("task") or "text")
    examples: list[Example] = []
    if task != "classification" and isinstance(config.get("prompt"), str):
        examples.append({"prompt": config["prompt"]})
    summary = read_dict(summary_file[0], json.loads)
    with contextlib.suppress(UserError, OSError, ValueError, LookupError):
        corpus = open_run_corpus(config_file[0].parent, config, summary)
        examples += corpus_examples(corpus, task, str(data.get("template")))
    examples = [e for e in examples if e["prompt"].strip()] or [default_example(task)]
    different = {example["prompt"]: example for example in reversed(examples)}
    return list(different.values())[::-1][:MAX_EXAMPLES]


def open_run_corpus(folder: Path, config: dict[str, Any], summary: dict[str, Any]) -> Corpus:
    """Open the corpus of a run; a relative `corpus_root` is next to the run root, or here.

    Raises UserError if it is not there, and ValueError for a name that is a path.
    """
    name = str(config_group(summary, "corpus").get("name"))
    if Path(name).name != name:
        raise ValueError(name)
    root = Path(str(config.get("corpus_root") or "corpora"))
    sibling = folder.parent.parent / root / name
    return Corpus(sibling if sibling.is_dir() else root.expanduser() / name)


def corpus_examples(corpus: Corpus, task: str, template: str) -> list[Example]:
    tokens, ends = corpus.tokens("valid"), corpus.document_ends("valid")[: 8 * MAX_EXAMPLES]
    starts = [0, *ends.tolist()]
    texts = [
        decode(corpus.tokenizer, tokens[start : min(end - 1, start + MAX_TOKENS)].tolist())
        for start, end in zip(starts, ends.tolist(), strict=False)
    ]
    if task == "classification":
        labels = corpus.labels("valid").tolist()
        texts = alternate([text[:MAX_LENGTH] for text in texts], labels)
        return [{"prompt": text} for text in texts[:MAX_EXAMPLES]]
    if task == "instructions":
        lengths = corpus.prompt_lengths("valid").tolist()
        prompts = [
            decode(corpus.tokenizer, tokens[start : start + min(length, MAX_TOKENS)].tolist())
            for start, length in zip(starts, lengths, strict=False)
        ]
        found = (split_instruction(prompt, template) for prompt in prompts)
        return [example for example in found if example]
    return [{"prompt": " ".join(text.split()[:MAX_WORDS])} for text in texts]


def alternate(texts: list[str], labels: list[int]) -> list[str]:
    """Order messages so that classes take turns."""
    seen: dict[int, int] = {}
    order = []
    for number, label in zip(range(len(texts)), labels, strict=False):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], number))
    return [texts[number] for _, number in sorted(order)]


def split_instruction(prompt: str, template: str) -> Example | None:
    """Return the instruction and input in a prompt; None if the template is not ours."""
    if not (make := PROMPT_TEMPLATES.get(template)):
        return None
    for input_mark in ("\ue001", ""):
        pattern = re.escape(make("\ue000", input_mark).strip())
        pattern = pattern.replace("\ue000", "(.+?)").replace("\ue001", "(.+)")
        if match := re.fullmatch(pattern, prompt.strip(), re.DOTALL):
            names = ("prompt", "input")
            return {
                name: text.strip()[:MAX_LENGTH]
                for name, text in zip(names, match.groups(), strict=False)
            }
    return None
