"""A file named alone is enough, for every data preset; the run says what it read."""

import json
import random
from pathlib import Path

import pytest

from gptlab.config.cli import compose_config
from gptlab.config.keys import group_choices
from gptlab.data.build import open_corpus
from gptlab.data.tokenizer import decode
from gptlab.generation.engine import drop_preset_prompt, training_prompt
from tests.conftest import TINY

WORDS = "It rained all day and a fox sat glad under an old tree".split()


def write_own_files(folder: Path) -> dict[str, str]:
    """Write a file for each task; return data.path of each."""
    rng = random.Random(1)
    lines = [" ".join(rng.choices(WORDS, k=9)) for _ in range(400)]
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"{('good', 'bad')[n % 2]},{line} {n}" for n, line in enumerate(lines[:200])]
    (folder / "labels.csv").write_text("class,message\n" + "\n".join(rows), encoding="utf-8")
    pairs = [{"prompt": line, "response": str(n)} for n, line in enumerate(lines[:200])]
    (folder / "pairs.json").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    return {"text": "train.txt", "classification": "labels.csv", "instructions": "pairs.json"}


@pytest.mark.parametrize("preset", group_choices("data"))
def test_a_file_alone_is_enough_for_every_preset(preset: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write_own_files(tmp_path)
    task = compose_config("train", [f"data={preset}"]).data.task
    arguments = [f"data={preset}", f"data.path={paths[task]}"]
    config = compose_config("train", arguments)
    corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
    assert corpus.splits["train"].tokens > corpus.splits["valid"].tokens > 10
    (line,) = corpus.meta["read"]
    assert line.startswith(f"1 .{paths[task].partition('.')[2]} file")
    if task != "classification":
        config = drop_preset_prompt(config, corpus)
        assert decode(corpus.tokenizer, training_prompt(config, corpus)).strip() or preset.endswith(
            "char"
        )


def test_a_run_says_what_it_read_and_starts_its_samples_with_own_words(command, tmp_path) -> None:
    write_own_files(tmp_path)
    (tmp_path / ".hidden.txt").write_text("x", encoding="utf-8")
    run = [*TINY, "trainer.max_steps=2", "trainer.eval_every=0", "preflight=only"]
    result = command("train", "data=toy_stories", "data.path=*.txt", "data.split=0", *run)
    assert result.code == 0, result.err
    assert "\n  files      1 .txt file\n" in result.out
    assert "because data.split=0 would leave nothing to validate on" in result.out
