"""Example prompts of a run's own kind."""

import json
from pathlib import Path

import pytest
import yaml

from gptlab.app import examples
from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.data.prompt_matching import match_prompt

KINDS = {
    "text": DataConfig(source="toy_stories", max_samples=60),
    "classification": DataConfig(task="classification", source="toy_spam", max_samples=60),
    "instructions": DataConfig(
        task="instructions", source="toy_instructions", max_samples=60, template="plain"
    ),
}


def make_run(root: Path, task: str, prompt: str | None = None, **summary: object) -> Path:
    folder = root / "runs" / task
    folder.mkdir(parents=True)
    data = {"task": task, "template": "plain"}
    config = {"data": data, "prompt": prompt, "corpus_root": "corpora"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", KINDS)
def test_examples_come_from_the_runs_own_held_out_texts(tmp_path: Path, task: str) -> None:
    root = str(tmp_path / "corpora")
    corpus = open_corpus(KINDS[task], TokenizerConfig(name="words"), seed=1, corpus_root=root)
    folder = make_run(tmp_path, task, corpus={"name": corpus.folder.name})
    found = examples.example_prompts(folder)
    assert 2 <= len(found) <= examples.MAX_EXAMPLES
    for example in found:
        assert 0 < len(example["prompt"]) <= examples.MAX_LENGTH
        match = match_prompt(corpus.tokenizer, example["prompt"])
        assert task == "instructions" or not match.skipped
    if task == "instructions":
        assert any(example.get("input") for example in found)
        assert not any("= " in text for example in found for text in example.values())
    if task == "classification":
        assert all(len(example["prompt"].split()) > 2 for example in found)


def test_a_moved_or_strange_run_still_has_an_example(tmp_path: Path) -> None:
    default = [{"prompt": "Once upon a time"}]
    assert examples.example_prompts(make_run(tmp_path / "a", "text")) == default
    strange = make_run(tmp_path / "b", "text", corpus={"name": "../../secret"})
    assert examples.example_prompts(strange) == default
    own = make_run(tmp_path / "c", "text", "My story", corpus={"name": "gone"})
    assert examples.example_prompts(own) == [{"prompt": "My story"}]
    (message,) = examples.example_prompts(make_run(tmp_path / "d", "classification", "My story"))
    assert message == {"prompt": "You won a prize! Call now."}


def test_instructions_are_taken_out_of_each_template() -> None:
    for name, make in examples.PROMPT_TEMPLATES.items():
        for given in ({"prompt": "Swap them."}, {"prompt": "Swap (a+b)?", "input": "cat and king"}):
            prompt = make(*given.values())
            assert examples.split_instruction(prompt, name) == given
    assert examples.split_instruction("x", "mypkg.templates:mine") is None
