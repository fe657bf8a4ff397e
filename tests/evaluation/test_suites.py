"""The registry of suites, used by training and by `evaluate`."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.corpus import Corpus
from gptlab.evaluation.eval_context import EvalContext, Results
from gptlab.evaluation.suites import SUITES, Suite
from tests.conftest import TINY
from tests.evaluation.conftest import EvaluatedRun, read_events, write_questions


def test_a_run_stores_and_prints_the_results_of_its_suites(evaluated_run: EvaluatedRun) -> None:
    folder, out = evaluated_run
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["before"], summary["after"]
    assert before["valid/loss"] == pytest.approx(np.log(50257), abs=0.2)
    assert before["hellaswag/n"] == after["hellaswag/n"] == 3
    assert after["valid/perplexity"] == pytest.approx(np.exp(after["valid/loss"]))
    for name in ("estimate", "windows"):
        assert after[f"{name}/loss"] == pytest.approx(after["valid/loss"], abs=0.5)
    assert after["memorisation_held_out/longest"] >= 3  # the grammar's set phrases
    assert after["bleu_rouge/n"] == after["text_quality/texts"] == 20
    assert after["text_quality_held_out/grammatical"] == 1.0
    assert (folder / "samples" / "step_0.txt").read_text(encoding="utf-8").count("[sampled]") == 2
    rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith("0,0,0.0,")
    for word in ("validation", "estimate", "training text", "hellaswag", "held-out text"):
        assert f"  {word} " in out
    for column in ("bleu_rouge_other_real", "text_quality_held_out"):
        assert f" {column}" in out
    assert f"{summary['parameters']:,} parameters" in out
    assert summary["command"].startswith("python train.py model.n_layer=1")


def test_tensorboard_has_curves_texts_plots_and_hparams(evaluated_run: EvaluatedRun) -> None:
    events = read_events(evaluated_run.folder)
    scalars = set(events.Tags()["scalars"])
    for name in ("loss", "perplexity", "lr", "gradient_norm", "tokens_per_second", "tokens"):
        assert f"train/{name}" in scalars, name
    assert {"valid/loss", "valid/perplexity", "final/valid_loss"} <= scalars
    assert [event.step for event in events.Scalars("hellaswag/acc_norm")] == [0, 2]
    images = {"attention/layer_0", "inside/logit_lens", "inside/surprise"}
    assert set(events.Tags()["images"]) == images
    assert list(evaluated_run.folder.rglob("metadata.tsv"))  # the embedding's labels
    hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.n_layer" in hparams and b"optim.lr" in hparams
    (*_, event) = events.Tensors("samples/text_summary")
    stored = (evaluated_run.folder / "samples" / "step_2.txt").read_text(encoding="utf-8")
    assert event.step == 2 and event.tensor_proto.string_val[0].decode().split() == stored.split()


def test_adding_a_suite_takes_a_function_and_a_line(command, tmp_path: Path, monkeypatch) -> None:
    def count_documents(context: EvalContext) -> Results:
        return {"documents/n": context.corpus.splits["valid"].documents}

    monkeypatch.setitem(SUITES, "documents", Suite(count_documents))
    result = command("train", *TINY, "profile=smoke", "eval_after=[perplexity,documents]")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    (corpus,) = (tmp_path / "corpora").iterdir()
    count = Corpus(corpus).splits["valid"].documents
    assert (
        json.loads((run / "summary.json").read_text(encoding="utf-8"))["after"]["documents/n"]
        == count
    )
    assert f"  {'documents':<28}documents\n    {'n':<26}{count}\n" in result.out
    result = command("gptlab.evaluate", "suite=[documents]")
    assert result.code == 0 and f"  n                         {count}" in result.out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("eval_after=[perplexity,helaswag]", "did you mean 'hellaswag'?"),
        ("eval_after=[]", "must include perplexity"),
        ("eval_before=[samples,magic]", "eval_before=magic: invalid choice"),
        ("eval_after=[perplexity,responses]", "responses: needs a model of data.task=instructions"),
        ("log_interpretability=[lens]", "log_interpretability=lens"),
        ("hellaswag.max_questions=0", "must be at least 1"),
    ],
)
def test_invalid_suites_stop_a_run_before_it_starts(
    command, tmp_path: Path, argument: str, message: str
) -> None:
    result = command("train", *TINY, "profile=smoke", argument)
    assert result.code == 2 and message in result.err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "corpora").exists()


def test_a_missing_hellaswag_file_stops_a_run_before_it_starts(command, tmp_path: Path) -> None:
    suites = ["eval_before=[hellaswag]", "hellaswag.path=no.x"]
    result = command("train", *TINY, "profile=smoke", *suites)
    assert result.code == 2 and "hellaswag.path=no.x: No such file" in result.err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "corpora").exists()


def test_questions_that_the_vocabulary_cannot_encode_stop_a_run(command, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "val.jsonl")
    suites = ["eval_after=[perplexity,hellaswag]", f"hellaswag.path={path}", "tokenizer=words"]
    result = command("train", *TINY, "profile=smoke", *suites)
    assert result.code == 2 and result.err.startswith("error: hellaswag: ")
    assert result.err.count("\n") == 1 and not (tmp_path / "runs").exists()
