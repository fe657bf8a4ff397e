"""What is measured before and after training."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.config.schema import HellaswagConfig, ModelConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import GPT2Tokenizer, decode
from gptlab.evaluation import hellaswag, interpretability_plots, memorisation
from gptlab.evaluation.memorisation import measure_memorisation
from gptlab.model import checkpoint
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError
from tests.conftest import TINY

QUESTIONS = [
    ("A man sits on a roof. He", ["starts to sing.", "is a fish", "the the the", "runs."], 0),
    ("The cat", ["sleeps all day long in the sun", "bark", "of", "two"], 2),
    ("She opens", ["a door", "a window and looks out", "", "x"], 1),
]


def write_questions(path: Path) -> Path:
    rows = [{"ctx": c, "endings": e, "label": label} for c, e, label in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gpt2_net(**changes) -> GPT:
    torch.manual_seed(0)
    settings = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 64, "init_std": 0.3}
    return GPT(ModelConfig(vocab_size=50304, **(settings | changes))).eval()


def one_by_one(net: GPT, context: str, ending: str) -> tuple[float, float]:
    """The sum and the mean of an ending's losses, without batches or padding."""
    tokenizer = GPT2Tokenizer()
    first, rest = tokenizer.encode(context), tokenizer.encode(" " + ending)
    ids = torch.tensor([*first, *rest])[-(net.config.window + 1) :]
    losses = F.cross_entropy(net(ids[None, :-1])[0], ids[1:], reduction="none")[-len(rest) :]
    return float(losses.sum()), float(losses.mean())


@pytest.mark.parametrize("window", [64, 6])
def test_hellaswag_is_that_of_each_ending_alone(tmp_path: Path, window: int) -> None:
    config = HellaswagConfig(path=str(write_questions(tmp_path / "val.jsonl")))
    questions = hellaswag.read_questions(config, tmp_path)
    net = gpt2_net(trained_length=window)
    with torch.inference_mode():
        each = [[one_by_one(net, q.context, e) for e in q.endings] for q in questions]
    sums, means = np.array(each).transpose(2, 0, 1)
    labels = [q.label for q in questions]
    for batch_size in (1, 5):
        result = hellaswag.answer_questions(net, GPT2Tokenizer(), questions, "32-true", batch_size)
        assert result.answers == sums.argmin(1).tolist()
        assert result.answers_norm == means.argmin(1).tolist()
        assert result.acc == (sums.argmin(1) == labels).mean()
    batch = hellaswag.make_ending_sequences(questions, GPT2Tokenizer(), net.config.window)
    with torch.inference_mode():
        together = hellaswag.ending_losses(net, batch, "32-true")
    np.testing.assert_allclose(together.numpy(), sums.flatten(), rtol=1e-4)


def test_hellaswag_statistics_and_rows(tmp_path: Path) -> None:
    right = [0] * 2511 + [1] * (10_042 - 2511)
    result = hellaswag.HellaswagResult([0] * 10_042, right, right)
    assert result.acc_norm == pytest.approx(0.25, abs=1e-4)
    assert result.standard_error == pytest.approx(0.0043, abs=1e-4)  # the published runs' error
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


def test_the_harness_asks_in_its_own_words(tmp_path: Path) -> None:
    question = hellaswag.HarnessQuestion.from_row(ROW)
    assert question.context == "Baking bread: How to bake. Buy flour. The baker "
    assert question.endings[:2] == ["kneads it.", "sings loudly."]
    tokenizer = GPT2Tokenizer()
    context, ending = question.encode(tokenizer, question.endings[0])
    assert decode(tokenizer, context) == question.context.rstrip()
    assert decode(tokenizer, ending) == "  kneads it."  # the context's last space goes over
    assert question.norm_length(question.endings[0], 3) == len("kneads it.")
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    wanted = HellaswagConfig(path=str(path)), tmp_path, hellaswag.HarnessQuestion
    assert hellaswag.read_questions(*wanted) == [question]
    (first, *_) = hellaswag.make_ending_sequences([question], tokenizer, 1024)
    assert (first.begin, first.norm_length) == (len(context), len("kneads it."))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no questions"),
        ("{}\n", "line 1: not a HellaSwag question"),
        ('{"ctx": "a", "endings": ["b"], "label": 0}\n', "line 1: not a HellaSwag question"),
        ("not json\n", "line 1: not a HellaSwag question"),
    ],
)
def test_a_file_that_is_not_hellaswag_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "val.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        hellaswag.read_questions(HellaswagConfig(path=str(tmp_path / "val.jsonl")), tmp_path)


def test_hellaswag_is_fetched_once_and_its_hash_checked(tmp_path: Path, monkeypatch) -> None:
    file = write_questions(tmp_path / "official.jsonl")
    monkeypatch.setattr(hellaswag, "URL", file.as_uri())
    with pytest.raises(UserError, match="hash differs"):
        hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(hellaswag, "SHA256", digest)
    assert len(hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")) == 3
    file.unlink()
    assert len(hellaswag.read_questions(HellaswagConfig(), tmp_path / "raw")) == 3


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_verbatim_spans_begin_between_tokens(tmp_path: Path, dtype: type) -> None:
    stream = np.array([1, 256, 2, 513, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 3], dtype=dtype)
    stream.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=dtype, mode="r")
    across = stream.view(np.uint8)[1 : 1 + 2 * stream.itemsize].view(dtype).tolist()
    assert (
        measure_memorisation(mapped, [across]).longest < 2
    )  # these bytes are there, but not as tokens
    assert measure_memorisation(mapped, [[9, 256, 2, 99, 1]]).longest == 2
    found = measure_memorisation(mapped, [list(range(7, 18)), [5, 6]])
    assert (found.longest, found.mean_longest) == (11, 5.5)
    assert found.ngrams == {5: 1.0, 10: 1.0, 20: 0.0}


def test_verbatim_spans_are_those_of_a_search_one_by_one(monkeypatch) -> None:
    monkeypatch.setattr(memorisation, "CHUNK", 7)  # runs cross many borders
    random = np.random.default_rng(4)
    stream = random.integers(0, 3, size=200)
    texts = [random.integers(0, 3, size=size).tolist() for size in (25, 14, 3, 1)] + [[9, 9]]
    texts.append([*stream[50:75].tolist(), 9])

    def stands(run: list[int]) -> bool:
        size = len(run)
        return any((stream[at : at + size] == run).all() for at in range(len(stream) - size + 1))

    runs = memorisation.find_ngrams(stream, texts)
    assert len(runs) == 26
    for length, of in enumerate(runs, 1):
        for text, told in zip(texts, of, strict=True):
            wanted = [stands(text[at : at + length]) for at in range(len(text) - length + 1)]
            assert told.tolist() == wanted


def test_suites_before_and_after(command, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "val.jsonl")
    result = command(
        *(
            "train",
            *TINY,
            "profile=smoke",
            "tokenizer=gpt2",
            f"hellaswag.path={path}",
            "num_samples=2",
        ),
        *("eval_before=[perplexity,samples,hellaswag]", "data.final_tokens=null"),
        "eval_after=[perplexity,estimate,windows,hellaswag,memorisation]",
    )
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["before"]["valid/loss"] == pytest.approx(np.log(50257), abs=0.2)
    assert summary["before"]["hellaswag/n"] == summary["after"]["hellaswag/n"] == 3
    after = summary["after"]
    assert after["valid/perplexity"] == pytest.approx(np.exp(after["valid/loss"]))
    for name in ("estimate", "windows"):
        assert after[f"{name}/loss"] == pytest.approx(after["valid/loss"], abs=0.5)
    assert after["memorisation_held_out/longest"] >= 3  # the grammar's set phrases
    assert (run / "samples" / "step_0.txt").read_text().count("[sampled]") == 2
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[1].startswith("0,0,0.0,")
    for word in ("validation", "estimate", "own windows", "hellaswag", "real text"):
        assert f"  {word} " in result.out
    parameters = summary["parameters"]
    assert f"{parameters:,} parameters" in result.out
    assert summary["command"].startswith("python train.py model.n_layer=1")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("eval_after=[perplexity,helaswag]", "did you mean 'hellaswag'?"),
        ("eval_after=[]", "must include perplexity"),
        ("eval_before=[samples,magic]", "eval_before=magic: invalid choice"),
        ("hellaswag.max_questions=0", "must be at least 1"),
    ],
)
def test_mistakes_in_suites(command, tmp_path: Path, argument: str, words: str) -> None:
    result = command("train", *TINY, "profile=smoke", argument)
    assert result.code == 2 and words in result.err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "corpora").exists()


def test_a_missing_hellaswag_file_is_told_before_anything(command, tmp_path: Path) -> None:
    result = command(
        "train", *TINY, "profile=smoke", "eval_before=[hellaswag]", "hellaswag.path=no.x"
    )
    assert result.code == 2 and "hellaswag.path=no.x: No such file" in result.err
    assert not (tmp_path / "runs").exists()


def test_scoring_keeps_to_positions_that_were_trained(command, tmp_path: Path) -> None:
    size = ["model.context_length=64", "data.row_length=17", "data.batching=random"]
    result = command("train", *TINY, "profile=smoke", *size)
    assert result.code == 0 and "rows have 16 tokens" in result.out
    result = command("generate", "prompt=Once upon a time", "max_new_tokens=20")
    assert "the model sees 16 tokens at once" in result.err


def test_corpus_names_its_duplicates_and_damage(toy_corpus: Corpus) -> None:
    assert toy_corpus.meta["duplicates_across_splits"] == 0
    assert toy_corpus.meta["mojibake"] == 0


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_has_curves_texts_pictures_and_hparams(command, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "val.jsonl")
    suites = [
        "eval_before=[hellaswag]",
        "eval_after=[perplexity,hellaswag]",
        f"hellaswag.path={path}",
    ]
    # Without samples on the way there is a picture all the same.
    result = command(
        "train", *TINY, "profile=smoke", *suites, "tokenizer=gpt2", "trainer.sample_every=0"
    )
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    found = events(run)
    scalars = set(found.Tags()["scalars"])
    for name in ("loss", "perplexity", "lr", "gradient_norm", "tokens_per_second", "tokens"):
        assert f"train/{name}" in scalars, name
    assert {"valid/loss", "valid/perplexity", "final/valid_loss"} <= scalars
    assert [event.step for event in found.Scalars("hellaswag/acc_norm")] == [0, 2]
    assert found.Tags()["images"] == ["attention/layer_0"]
    chosen = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.n_layer" in chosen and b"optim.lr" in chosen


def test_samples_are_texts_in_tensorboard(command, tmp_path: Path) -> None:
    assert command("train", *TINY, "profile=smoke").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    found = events(run)
    (event,) = found.Tensors("samples/text_summary")
    stored = (run / "samples" / "step_2.txt").read_text()
    assert event.step == 2 and event.tensor_proto.string_val[0].decode().split() == stored.split()


def test_tokens_that_look_like_formulas_are_shown_to_the_letter() -> None:
    figure = interpretability_plots.plot_attention(torch.eye(2)[None], ["$$", "$x_"], "layer 0")
    figure.savefig(io.BytesIO())
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["$$", "$x_"]


def test_the_last_step_is_the_best_where_it_is_better(command, tmp_path: Path) -> None:
    """The last validation was one step before the end."""
    steps = ["trainer.max_steps=5", "trainer.eval_every=4", "data.valid_tokens=100000"]
    assert command("train", *TINY, "profile=smoke", *steps).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["scored"] == "last.ckpt, step 5"
    assert checkpoint.load_checkpoint(run / "checkpoints" / "best.ckpt").step == 5


def test_an_overfitted_run_is_scored_where_it_was_best(command, tmp_path: Path) -> None:
    text = "One day a cat met a dog in the wood."
    (tmp_path / "own.txt").write_text("\n<|endoftext|>\n".join([text] * 30))
    (tmp_path / "held.txt").write_text("\n<|endoftext|>\n".join([text[::-1]] * 30))
    own = ["data=text", "tokenizer=char", "data.path=own.txt", "data.valid_path=held.txt"]
    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2", "trainer.max_steps=60"]
    often = ["trainer.eval_every=5", "optim.lr=0.03", "optim.warmup_steps=0", "prompt=One"]
    result = command("train", *own, *small, *often, "eval_after=[perplexity,windows]")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    after = summary["after"]
    assert summary["scored"].startswith("best.ckpt") and "last step" in result.out
    assert after["valid/loss"] < after["last/loss"]
    # What training made of the model is seen on the last checkpoint, not on the best.
    assert after["windows/loss"] < 1 < after["valid/loss"]


def test_a_vocabulary_that_cannot_spell_the_questions_is_told_at_once(command, tmp_path) -> None:
    path = write_questions(tmp_path / "val.jsonl")
    suites = ["eval_after=[perplexity,hellaswag]", f"hellaswag.path={path}", "tokenizer=words"]
    result = command("train", *TINY, "profile=smoke", *suites)
    assert result.code == 2 and result.err.startswith("error: hellaswag: the text has what")
    assert result.err.count("\n") == 1 and not (tmp_path / "runs").exists()
