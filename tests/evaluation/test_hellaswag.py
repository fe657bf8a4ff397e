"""HellaSwag's questions, and the losses of their endings."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.config.schema import HellaswagConfig
from gptlab.data.tokenizer import GPT2Tokenizer, decode
from gptlab.evaluation import hellaswag
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError
from tests.evaluation.conftest import gpt2_net, write_questions


def score_alone(net: GPT, context: str, ending: str) -> tuple[float, float]:
    """The sum and the mean of an ending's losses, without batches or padding."""
    tokenizer = GPT2Tokenizer()
    first, rest = tokenizer.encode(context), tokenizer.encode(" " + ending)
    ids = torch.tensor([*first, *rest])[-(net.config.window + 1) :]
    losses = F.cross_entropy(net(ids[None, :-1])[0], ids[1:], reduction="none")[-len(rest) :]
    return float(losses.sum()), float(losses.mean())


@pytest.mark.parametrize("window", [64, 6])
def test_batches_score_each_ending_as_if_alone(tmp_path: Path, window: int) -> None:
    config = HellaswagConfig(path=str(write_questions(tmp_path / "val.jsonl")))
    questions = hellaswag.read_questions(config, tmp_path)
    net = gpt2_net(trained_length=window)
    with torch.inference_mode():
        each = [[score_alone(net, q.context, e) for e in q.endings] for q in questions]
    sums, means = np.array(each).transpose(2, 0, 1)
    labels = [q.label for q in questions]
    for batch_size in (1, 5):
        result = hellaswag.answer_questions(net, GPT2Tokenizer(), questions, "32-true", batch_size)
        assert result.answers == sums.argmin(1).tolist()
        assert result.answers_norm == means.argmin(1).tolist()
        assert result.metrics()["acc"] == (sums.argmin(1) == labels).mean()
    batch = hellaswag.make_ending_sequences(questions, GPT2Tokenizer(), net.config.window)
    with torch.inference_mode():
        together = hellaswag.ending_losses(net, batch, "32-true")
    np.testing.assert_allclose(together.numpy(), sums.flatten(), rtol=1e-4)


def test_standard_error_and_number_of_questions(tmp_path: Path) -> None:
    right = [0] * 2511 + [1] * (10_042 - 2511)
    metrics = hellaswag.HellaswagResult([0] * 10_042, right, right).metrics()
    assert metrics["acc_norm"] == pytest.approx(0.25, abs=1e-4)
    assert metrics["standard_error"] == pytest.approx(0.0043, abs=1e-4)  # the published runs' error
    path = str(write_questions(tmp_path / "val.jsonl"))
    assert len(hellaswag.read_questions(HellaswagConfig(path=path, max_questions=2), tmp_path)) == 2


ROW = {
    "activity_label": "Baking bread",
    "ctx_a": "[header] How to bake [title] Buy flour.",
    "ctx_b": "the BAKER [step]",
    "ctx": "[header] How to bake [title] Buy flour. the BAKER [step]",
    "endings": ["kneads  it.", "sings [substeps] loudly.", "sleeps.", "runs."],
    "label": 1,
}


def test_the_harness_style_has_the_topic_and_no_markup(tmp_path: Path) -> None:
    question = hellaswag.HarnessQuestion.from_row(ROW)
    assert question.context == "Baking bread: How to bake. Buy flour. The baker "
    assert question.endings[:2] == ["kneads it.", "sings loudly."]
    tokenizer = GPT2Tokenizer()
    context, ending = question.encode(tokenizer, question.endings[0])
    assert decode(tokenizer, context) == question.context.rstrip()
    assert decode(tokenizer, ending) == "  kneads it."  # with the context's last space
    assert question.norm_length(question.endings[0], 3) == len("kneads it.")
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    arguments = HellaswagConfig(path=str(path)), tmp_path, hellaswag.HarnessQuestion
    assert hellaswag.read_questions(*arguments) == [question]
    (first, *_) = hellaswag.make_ending_sequences([question], tokenizer, 1024)
    assert (first.begin, first.norm_length) == (len(context), len("kneads it."))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no questions"),
        ("{}\n", "line 1: not a HellaSwag question"),
        ('{"ctx": "a", "endings": ["b"], "label": 0}\n', "line 1: not a HellaSwag question"),
        ("not json\n", "line 1: not a HellaSwag question"),
    ],
)
def test_a_file_that_is_not_hellaswag_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "val.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        hellaswag.read_questions(HellaswagConfig(path=str(tmp_path / "val.jsonl")), tmp_path)


def test_the_official_file_is_downloaded_once_and_its_hash_checked(
    tmp_path: Path, monkeypatch
) -> None:
    file = write_questions(tmp_path / "official.jsonl")
    monkeypatch.setattr(hellaswag, "URL", file.as_uri())
    with pytest.raises(UserError, match="not the official file"):
        hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(hellaswag, "SHA256", digest)
    assert len(hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")) == 3
    file.unlink()
    assert len(hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")) == 3
