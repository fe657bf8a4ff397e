"""`python -m gptlab.evaluate`: what it prints and stores."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.data.toy.stories import story_grammar
from gptlab.evaluation.document_scores import read_document_scores
from tests.conftest import TINY
from tests.evaluation.conftest import EvaluatedRun

QUICK = ["num_samples=3", "max_new_tokens=12", "max_tokens=500"]


def stored(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text(encoding="utf-8"))


def result_names(run: Path) -> set[str]:
    """The parts before the slash of the stored results."""
    return {name.partition("/")[0] for name in stored(run)["results"]}


def test_results_are_printed_stored_and_shown_in_tensorboard(command, trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text(encoding="utf-8"))
    most = ["num_samples=3", "max_new_tokens=12", "max_tokens=300", "batch_size=1"]
    result = command("gptlab.evaluate", "suite=[perplexity,memorisation]", *most)
    assert result.code == 0, result.err
    loss = stored(trained)["results"]["valid/loss"]
    assert f"{loss:.4f}" in result.out and stored(trained)["step"] == 2
    assert loss == pytest.approx(summary["after"]["valid/loss"], rel=1e-6)  # as in training
    result = command("gptlab.evaluate", "suite=[text_quality,bleu_rouge]", *most)
    assert result.code == 0, result.err
    assert result_names(trained) >= {"valid", "memorisation", "text_quality", "bleu_rouge"}
    (event,) = EventAccumulator(str(trained)).Reload().Scalars("evaluation/valid/loss")
    assert (event.step, event.value) == (2, pytest.approx(loss))


def test_the_command_line_can_name_another_text(command, trained: Path, tmp_path: Path) -> None:
    texts = [story_grammar().generate(9, number).text for number in range(40)]
    (tmp_path / "other.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    other = ["data=text", "data.path=other.txt", "data.split=0.5", "tokenizer.unknown=skip"]
    result = command("gptlab.evaluate", "suite=[perplexity]", *other)
    assert result.code == 0, result.err
    assert "other-words-" in stored(trained)["corpus"]


def test_an_exported_model_needs_a_text(
    command, evaluated_run: EvaluatedRun, tmp_path: Path
) -> None:
    result = command("gptlab.export", f"run={evaluated_run.folder}", "output_dir=out")
    assert result.code == 0, result.err
    result = command("gptlab.evaluate", "run=out", "suite=[perplexity]")
    assert result.code == 2 and "choose a text: data=text" in result.err
    result = command(
        *("gptlab.evaluate", "run=out", "suite=[perplexity]", "data=toy_stories", *QUICK),
        *("data.max_samples=60", "data.split=0.3"),
    )
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite=[perplexty]"], "did you mean 'perplexity'"),
        ([], "suite: choose from perplexity"),
        (["suite=[hellaswag]", "hellaswag.path=none"], "hellaswag.path=none"),
        (["suite=[perplexity]", "stride=5"], "stride=5: works on windows"),
        (["suite=[perplexity]", "data=text", "data.path=none.txt"], "no such file"),
        (["suite=[perplexity]", "precision=fp8"], "precision=fp8: invalid choice"),
        (["suite=[perplexity]", "data=toy_spam", "tokenizer.unknown=skip"], "but the model"),
        (["suite=[bleu_rouge]", "num_samples=1"], "num_samples=1: must be at least 2"),
        (["suite=[text_quality]", "prompt=Xyloph§"], "unknown=skip"),
    ],
)
def test_invalid_evaluate_arguments_end_in_one_line(
    command, trained: Path, arguments: list[str], message: str
) -> None:
    result = command("gptlab.evaluate", *arguments)
    assert result.code == 2 and message in result.err, result.err
    assert not (trained / "evaluation.json").exists()


def test_results_are_stored_even_if_a_later_suite_fails(command, trained: Path) -> None:
    result = command("gptlab.evaluate", "suite=[perplexity,text_quality]", "prompt=Xyloph§", *QUICK)
    assert result.code == 2 and "unknown=skip" in result.err
    assert set(stored(trained)) == {"checkpoint", "step", "corpus", "results"}
    assert result_names(trained) == {"valid"}
    result = command(
        "gptlab.evaluate", "suite=[text_quality]", "prompt=One§ day", "unknown=skip", *QUICK
    )
    assert result.code == 0, result.err
    assert {"valid", "text_quality"} <= result_names(trained)


def test_results_of_another_checkpoint_are_replaced(command, trained: Path) -> None:
    assert command("gptlab.evaluate", "suite=[perplexity]", "batch_size=1", *QUICK).code == 0
    settings, documents = read_document_scores(trained / "evaluation.npz")
    assert '"max_tokens": 500' in settings and '"stride": null' in settings
    results = stored(trained)["results"]
    assert documents["valid"].loss == pytest.approx(results["valid/loss"])
    means = results["valid/perplexity_of_batch_means"]
    assert means == pytest.approx(np.exp(documents["valid"].batch_means))
    assert means != results["valid/perplexity"]
    last = f"run={trained / 'checkpoints' / 'last.ckpt'}"
    assert command("gptlab.evaluate", "suite=[text_quality]", last, *QUICK).code == 0
    assert "valid" not in result_names(trained) and stored(trained)["checkpoint"] == "last.ckpt"
    assert not (trained / "evaluation.npz").exists()
    tags = EventAccumulator(str(trained)).Reload().Tags()["scalars"]
    assert not [tag for tag in tags if tag.startswith("evaluation/valid")]
    assert [path.name for path in trained.glob(".evaluation*")] == []


def test_a_message_is_classified_by_the_newest_classifier(command, trained: Path) -> None:
    result = command("gptlab.evaluate", "text=You won")
    assert result.code == 2 and "run=latest: no classifier in runs; train one" in result.err
    size = [*TINY, "profile=smoke", "eval_after=perplexity"]
    assert command("train", "data=toy_spam", "name=spam", *size).code == 0
    assert command("train", *size, "name=newer").code == 0
    result = command("gptlab.evaluate", "text=You won a zebra")
    assert result.code == 0 and "_spam/checkpoints" in result.err and "_newer" not in result.err
    assert 'never saw it: "zebra"' in result.err
    strict = command("gptlab.evaluate", "text=You won a zebra", "unknown=error")
    assert strict.code == 2 and "lacks: ' zebra'" in strict.err
