"""Answers to HellaSwag compared to those of the lm-evaluation-harness, which runs its own task.

`pip install -e ".[harness]" && pytest -m slow tests/evaluation/test_hellaswag_harness.py`
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from gptlab.config.schema import HellaswagConfig
from gptlab.evaluation import hellaswag
from gptlab.model.hf.pretrained import load_model
from tests.conftest import TINY

TOPICS = ("Baking bread", "Roof shingle removal", "Personal Care and Style")
PLACES = ("[header] How to bake [title] Buy flour. [step] Go to a shop.", "A man sits on a roof.")
NEXT = ("he", "", "the LADY", "[title] Then")
ENDINGS = (
    *("kneads the dough and puts it away.", "sings [substeps] very  loudly.", "sleeps."),
    *("[title] Take a break. [step] It is late…", "runs, runs, and runs!", "the roof is blue"),
)


def rows(count: int) -> list[dict]:
    """Questions with topics, bracketed markup and double spaces, which the harness treats."""
    questions = []
    for number in range(count):
        a, b = PLACES[number % 2], NEXT[number % 4]
        row = {"ind": number, "activity_label": TOPICS[number % 3], "ctx_a": a, "ctx_b": b}
        row["ctx"] = f"{a} {b}".strip()
        which = range(number, number + 20, 5)
        row["endings"] = [ENDINGS[at % 6] + " x" * (at % 7) for at in which]
        row["label"] = str(number % 4)
        questions.append(row)
    return questions


@pytest.mark.slow
def test_answers_equal_those_of_the_harness(command, tmp_path: Path, monkeypatch) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.hellaswag.utils import process_docs

    small = ["tokenizer=gpt2", "model.position=learned", "model.feed_forward=gelu_tanh"]
    result = command("train", *TINY, *small, "model.init_std=0.3", "trainer.max_steps=2")
    assert result.code == 0, result.err
    folder = tmp_path / "exported"
    result = command("gptlab.export", f"output_dir={folder}")
    assert result.code == 0, result.err
    real_file = os.environ.get("GPTLAB_HELLASWAG")  # real questions, if there are some
    path = Path(real_file) if real_file else tmp_path / "val.jsonl"
    if not real_file:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(60)), encoding="utf-8")
    model = load_model(folder)
    questions = hellaswag.read_questions(
        HellaswagConfig(path=str(path), max_questions=200), tmp_path, hellaswag.HarnessQuestion
    )
    result = hellaswag.answer_questions(model.net, model.tokenizer, questions, "32-true", 16)

    settings = Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "hellaswag.yaml"
    task = yaml.safe_load(settings.read_text(encoding="utf-8").replace("!function ", ""))
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(path)}}}
    task |= {"training_split": None, "process_docs": process_docs}
    report = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8),
        tasks=[task],
        limit=len(questions),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(report["samples"]["hellaswag"], key=lambda sample: sample["doc_id"])
    harness_answers, harness_answers_norm = [], []
    for sample in samples:
        nats = [-float(reply[0]) for reply in sample["filtered_resps"]]
        lengths = [len(choice) for choice in sample["doc"]["choices"]]
        means = [n / length for n, length in zip(nats, lengths, strict=True)]
        harness_answers.append(nats.index(min(nats)))
        harness_answers_norm.append(means.index(min(means)))
    assert len(samples) == len(questions) >= 50
    assert result.answers == harness_answers and len(set(harness_answers)) > 1
    assert result.answers_norm == harness_answers_norm and harness_answers_norm != harness_answers
    expected, metrics = report["results"]["hellaswag"], result.metrics()
    assert metrics["acc"] == pytest.approx(expected["acc,none"])
    assert metrics["acc_norm"] == pytest.approx(expected["acc_norm,none"])
