"""The published projects: their settings, first batches, and cards made from runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.schema import TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import Batch, TextDataModule
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model.gpt import GPT, count_parameters
from gptlab.report.cards import records, render
from gptlab.report.cards.records import compose
from gptlab.report.load_runs import MetricPoint
from gptlab.training.run_plan import RunPlan, make_run_plan
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY

EXPERIMENTS = [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
EOT = 50256


def built(tmp_path: Path, experiment: str, *overrides: str) -> tuple[TrainConfig, RunPlan, Corpus]:
    """The experiment on embedded stories, in its own sizes."""
    small = ["data=toy_stories", "data.max_samples=60", f"corpus_root={tmp_path / 'corpora'}"]
    config = compose([f"experiment={experiment}", *small, *overrides])
    corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
    return config, make_run_plan(config, corpus), corpus


def first_batch(config: TrainConfig, plan: RunPlan, corpus: Corpus) -> Batch:
    shape, context = plan.shape, plan.model.context_length
    return (
        TextDataModule(corpus, config.data, context, shape, config.seed)
        .train_dataloader()
        .dataset[0]
    )


def parameters(plan: RunPlan) -> int:
    with torch.device("meta"):
        return count_parameters(GPT(plan.model))


def test_postnorm(tmp_path: Path) -> None:
    config, plan, corpus = built(tmp_path, "tinystories_postnorm")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 768, 12, "post")
    assert (model.feed_forward, model.position, model.final_norm) == ("relu", "sinusoidal", False)
    assert model.scale_embeddings and not model.tied_head and not model.head_bias and model.bias
    assert (model.dropout, model.attention_dropout, model.vocab_size) == (0.1, 0.0, 50257)
    assert parameters(plan) == 105_546_240
    _, two, _ = built(tmp_path, "tinystories_postnorm", "model.n_layer=2")
    assert parameters(two) == 91_370_496
    assert (data.subset, data.split, data.split_by) == (0.1, 0.1, "random")
    assert data.keep_first_eot is False
    assert (plan.shape.batch_size, plan.shape.accumulate, config.trainer.max_epochs) == (8, 2, 5)
    assert (optim.name, optim.lr, optim.schedule) == ("adamw", 3e-4, "constant")
    assert (optim.weight_decay, optim.decay) == (0.01, "all")
    assert (optim.grad_clip, optim.betas) == (0, [0.9, 0.999])
    assert config.trainer.checkpoint_every_epoch and config.trainer.sample_every_epoch
    assert config.prompt == "Once upon a time"
    batch = first_batch(config, plan, corpus)
    assert batch["input"].shape == batch["target"].shape == (8, 255)
    assert (batch["target"] != EOT).all()  # every 50256 is ignored
    padded = batch["input"] == EOT
    assert padded.any() and (batch["target"][padded] == IGNORE_INDEX).all()


def test_prenorm(tmp_path: Path) -> None:
    config, plan, corpus = built(tmp_path, "tinystories_prenorm", "data.split=0.2")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (12, 768, 12, "pre")
    assert (model.feed_forward, model.position, model.final_norm) == ("gelu", "sinusoidal", True)
    assert not model.tied_head and model.context_length == 128
    assert parameters(plan) == 162_250_752
    own = compose(["experiment=tinystories_prenorm"])
    assert own.data.max_samples == 10_000 and own.data.split == 0
    assert data.stride < model.context_length and data.batching == "sliding"
    assert (plan.shape.batch_size, plan.shape.accumulate, config.trainer.max_epochs) == (8, 1, 5)
    assert (
        optim.name == "adamw"
        and config.num_samples == 5
        and config.eval_after[:2] == ["perplexity", "windows"]
    )
    assert config.sampling.top_k is None and config.sampling.temperature == 1
    assert config.prompt == "Once upon a time"
    batch = first_batch(config, plan, corpus)
    assert batch["input"].shape == (8, 128)
    assert (batch["input"][:, 1:] == batch["target"][:, :-1]).all()


@pytest.mark.parametrize("experiment", ["tiny_char", "tiny_char_tuned"])
def test_tiny_char(tmp_path: Path, experiment: str) -> None:
    config, plan, corpus = built(tmp_path, experiment)
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 64, 4, "pre")
    assert (model.context_length, model.dropout, model.final_norm) == (32, 0.0, True)
    assert model.head_bias and not model.tied_head and model.qkv_bias is False
    assert (data.max_samples, data.subset, data.split) == (60, 0.75, 0.1)
    assert (plan.shape.rows_per_step, plan.steps, corpus.tokenizer.name) == (16, 10_000, "char")
    vocabulary = corpus.tokenizer.vocab_size
    if experiment == "tiny_char":
        assert parameters(plan) == 129 * vocabulary + 201_344
        assert (model.feed_forward, model.position) == ("relu", "learned")
        assert (optim.name, optim.lr, optim.schedule) == ("adamw", 1e-3, "constant")
    else:  # the same budget: no more parameters, steps or characters
        assert (model.feed_forward, model.position) == ("relu2", "rotary")
        assert (optim.name, optim.lr, optim.schedule) == ("adamw", 6e-3, "cosine")
        assert parameters(plan) <= 129 * vocabulary + 201_344
    own = compose([f"experiment={experiment}"])
    assert own.prompt == " " and own.data.max_samples == 211_971 and "estimate" in own.after
    batch = first_batch(config, plan, corpus)
    assert batch["input"].shape == (16, 32)
    assert (batch["input"][:, 1:] == batch["target"][:, :-1]).all()


def test_fineweb(tmp_path: Path) -> None:
    config, plan, corpus = built(tmp_path, "fineweb_16m")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 256, 8, "pre")
    assert (model.feed_forward, model.position, model.context_length) == ("gelu", "learned", 1024)
    assert (model.vocab_size, model.tied_head, model.window) == (50_304, True, 512)
    assert parameters(plan) == 16_299_520
    assert (plan.shape.batch_size, plan.tokens_per_step, plan.steps) == (4, 32_768, 12_207)
    assert plan.steps * plan.tokens_per_step == pytest.approx(400e6, rel=1e-4)
    own = compose(["experiment=fineweb_16m"])
    assert own.data.max_tokens * (1 - own.data.split) == 300e6
    assert own.data.hub_config == "sample-10BT" and own.prompt == "Hello, I'm a language model,"
    assert (optim.lr, optim.min_lr, optim.warmup_steps) == (6e-4, 6e-5, 469)
    assert optim.schedule == "cosine"
    assert (optim.weight_decay, optim.betas, optim.grad_clip) == (0.1, [0.9, 0.95], 1.0)
    assert config.eval_before == ["perplexity", "samples", "hellaswag"] and config.num_samples == 4
    assert config.eval_after == ["perplexity", "hellaswag"] and config.sampling.top_k == 50
    assert config.trainer.keep_steps and 5000 % config.trainer.checkpoint_every == 0
    assert data.batching == "random"
    assert first_batch(config, plan, corpus)["input"].shape == (4, 512)


# What takes the place of data and weights that have to be fetched.
OFFLINE = {
    "spam_classifier": ["data=toy_spam", "model=toy", "model.pretrained=null"],
    "instruction_tuning": ["data=toy_instructions", "model=toy", "model.pretrained=null"],
    "gpt2_pretrained": [
        *("data=toy_stories", "model=toy", "model.pretrained=null", "model.context_length=256")
    ],
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_opens_with_its_command_and_is_short(experiment: str) -> None:
    lines = (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert len(lines) < 25
    assert lines[1].startswith(f"# python train.py experiment={experiment}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_offline_in_seconds(command, tmp_path: Path, experiment: str) -> None:
    data = OFFLINE.get(experiment, ["data=toy_stories"])
    result = command("train", f"experiment={experiment}", *data, "profile=smoke")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    own = compose([f"experiment={experiment}"])
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["tokenizer"]["name"] == own.tokenizer.name
    for key in ("batching", "row_length", "eot_first", "keep_first_eot"):
        assert stored["data"][key] == getattr(own.data, key), key
    assert summary["experiment"] == experiment and summary["steps"] == 2


def test_epochs_tell_their_average_loss(command, tmp_path: Path) -> None:
    size = ["trainer.max_epochs=2", "trainer.max_steps=null", "data.max_samples=30"]
    result = command("train", *TINY, "profile=smoke", *size, "data.batch_size=7")
    assert result.code == 0, result.err
    told = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    (metrics,) = (tmp_path / "runs").glob("*/metrics.csv")
    column = metrics.read_text().splitlines()[0].split(",").index("train/epoch_loss")
    stored = [row.split(",")[column] for row in metrics.read_text().splitlines()[1:]]
    losses = [float(value) for value in stored if value]
    assert told == [f"epoch {n}: average loss {loss:.4f}" for n, loss in enumerate(losses, 1)]
    assert len(losses) == 2 and losses[1] < losses[0]


@pytest.fixture
def docs(tmp_path: Path) -> tuple[Path, Path]:
    """The documents' place, without any record yet: (its folder, the README)."""
    folder = tmp_path / "docs"
    folder.mkdir()
    shutil.copy(render.DOCS / "published.yaml", folder)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.MARKS[0]}\nold\n{render.MARKS[1]}\nafter\n")
    return folder, readme


def test_a_card_without_runs_says_not_measured(docs) -> None:
    folder, readme = docs
    render.write_cards(folder, readme)
    for name in ("tinystories_postnorm", "tinystories_prenorm", "tiny_char", "fineweb_16m"):
        card = (folder / f"{name}.md").read_text()
        assert card.lower().count(render.NOT_MEASURED.lower()) >= 2 and "## Settings" in card
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.lower().count(render.NOT_MEASURED.lower()) == 7


def test_a_card_gives_the_figures_of_its_runs(command, tmp_path: Path, docs) -> None:
    folder, readme = docs
    small = ["data=toy_stories", "profile=smoke", "data.path=[deep/stories.txt]"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "stories.txt").write_text("Once upon a time, a cat.\n<|endoftext|>\n" * 40)
    for seed in (1, 2):
        result = command("train", "experiment=tiny_char", *small, f"seed={seed}")
        assert result.code == 0, result.err
    runs = sorted((tmp_path / "runs").iterdir())
    for run in runs:
        records.keep(records.extract(run), folder / "runs")
    render.write_cards(folder, readme)
    card, row = (folder / "tiny_char.md").read_text(), readme.read_text()
    losses = [json.loads((run / "summary.json").read_text())["after"]["valid/loss"] for run in runs]
    assert f"{sum(losses) / 2:.4f} ± " in card and f"{sum(losses) / 2:.4f} ± " in row
    assert all(f"{loss:.4f} nats a token" in card for loss in losses)
    assert "trainer.max_steps=2 (not 10000)" in card and "| seeds | 1, 2 |" in card
    assert "'data.path=[stories.txt]'" in card and "deep" not in card and str(tmp_path) not in card
    assert "on all of its data: not measured" in card
    assert (folder / "tiny_char.png").read_bytes().startswith(b"\x89PNG")
    for record in (folder / "runs" / "tiny_char").iterdir():
        assert "deep" not in record.read_text() and str(tmp_path) not in record.read_text()
    sample = (runs[0] / "samples" / "step_2.txt").read_text().splitlines()[1]
    assert sample in card


def test_what_is_no_run_of_an_experiment_gets_no_record(command, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no finished run"):
        records.extract(tmp_path)
    assert command("train", *TINY, "profile=smoke").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    with pytest.raises(UserError, match="is the run of no experiment"):
        records.extract(run)


def test_two_kinds_of_runs_have_two_names() -> None:
    def run(**config) -> records.Record:
        return records.Record({"experiment": "tiny_char"}, {"seed": 1} | config, {}, {})

    runs = [run(**{"optim.lr": rate}) for rate in (0.1, 0.2)] + [run(name="mine"), run(name="mine")]
    groups = records.group(runs)
    assert [each.label for each in groups] == [
        *("tiny_char, changed", "tiny_char, changed (2)", "tiny_char: mine"),
    ]
    assert len(groups[2].records) == 2


def test_curves_are_thinned_to_means() -> None:
    points = [MetricPoint(step, 0, 0.0, float(step)) for step in range(1, 1001)]
    thinned = records.thin(points)
    assert len(thinned) == records.POINTS
    assert thinned[0] == [5, 3.0] and thinned[-1] == [1000, 998.0]


def test_the_cards_are_those_that_the_records_make(tmp_path: Path) -> None:
    """No figure in the documents is typed by hand."""
    folder, readme = tmp_path / "experiments", tmp_path / "README.md"
    shutil.copytree(render.DOCS, folder)
    shutil.copy(ROOT / "README.md", readme)
    render.write_cards(folder, readme)
    assert readme.read_text() == (ROOT / "README.md").read_text()
    for path in render.DOCS.glob("*.md"):
        assert (folder / path.name).read_text() == path.read_text()
