"""The published experiments: their settings, their full sizes, and a short run of each."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.cli import compose_config
from gptlab.config.schema import TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import Batch, TextDataModule
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.run_plan import RunPlan, make_run_plan
from tests.conftest import ROOT, TINY

EXPERIMENTS = [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
EOT = 50256


def open_experiment(
    tmp_path: Path, experiment: str, *overrides: str
) -> tuple[TrainConfig, RunPlan, Corpus]:
    """Plan an experiment in its full size, on toy stories."""
    data = ["data=toy_stories", "data.max_samples=60", f"corpus_root={tmp_path / 'corpora'}"]
    config = compose_config("train", [f"experiment={experiment}", *data, *overrides])
    corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
    return config, make_run_plan(config, corpus), corpus


def first_batch(config: TrainConfig, plan: RunPlan, corpus: Corpus) -> Batch:
    shape, context = plan.shape, plan.model.context_length
    return (
        TextDataModule(corpus, config.data, context, shape, config.seed)
        .train_dataloader()
        .dataset[0]
    )


def parameters_of(plan: RunPlan) -> int:
    with torch.device("meta"):
        return count_parameters(GPT(plan.model))


@pytest.mark.fast
def test_tinystories_postnorm_has_the_published_settings(tmp_path: Path) -> None:
    config, plan, corpus = open_experiment(tmp_path, "tinystories_postnorm")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 768, 12, "post")
    assert (model.feed_forward, model.position, model.final_norm) == ("relu", "sinusoidal", False)
    assert model.scale_embeddings and not model.tied_head and not model.head_bias and model.bias
    assert (model.dropout, model.attention_dropout, model.vocab_size) == (0.1, 0.0, 50257)
    assert parameters_of(plan) == 105_546_240
    _, two, _ = open_experiment(tmp_path, "tinystories_postnorm", "model.n_layer=2")
    assert parameters_of(two) == 91_370_496
    assert (data.subset, data.split, data.split_by) == (0.1, 0.1, "random")
    assert data.learn_eot is False
    assert (plan.shape.batch_size, plan.shape.accumulate, config.trainer.max_epochs) == (8, 2, 5)
    assert (optim.name, optim.lr, optim.schedule) == ("adamw", 3e-4, "constant")
    assert (optim.weight_decay, optim.weight_decay_on) == (0.01, "all")
    assert (optim.grad_clip, optim.betas) == (0, [0.9, 0.999])
    assert config.trainer.checkpoint_every_epoch and config.trainer.sample_every_epoch
    assert config.prompt == "Once upon a time"
    batch = first_batch(config, plan, corpus)
    assert batch["input"].shape == batch["target"].shape == (8, 255)
    assert (batch["target"] != EOT).all()  # every 50256 is ignored
    padded = batch["input"] == EOT
    assert padded.any() and (batch["target"][padded] == IGNORE_INDEX).all()


def test_tinystories_prenorm_has_the_published_settings(tmp_path: Path) -> None:
    config, plan, corpus = open_experiment(tmp_path, "tinystories_prenorm", "data.split=0.2")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (12, 768, 12, "pre")
    assert (model.feed_forward, model.position, model.final_norm) == ("gelu", "sinusoidal", True)
    assert not model.tied_head and model.context_length == 128
    assert parameters_of(plan) == 162_250_752
    own = compose_config("train", ["experiment=tinystories_prenorm"])
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
def test_tiny_char_has_the_published_settings(tmp_path: Path, experiment: str) -> None:
    config, plan, corpus = open_experiment(tmp_path, experiment)
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 64, 4, "pre")
    assert (model.context_length, model.dropout, model.final_norm) == (32, 0.0, True)
    assert model.head_bias and not model.tied_head and model.qkv_bias is False
    assert (data.max_samples, data.subset, data.split) == (60, 0.75, 0.1)
    assert (plan.shape.sequences_per_step, plan.steps, corpus.tokenizer.name) == (
        16,
        10_000,
        "char",
    )
    vocabulary = corpus.tokenizer.vocab_size
    if experiment == "tiny_char":
        assert parameters_of(plan) == 129 * vocabulary + 201_344
        assert (model.feed_forward, model.position) == ("relu", "learned")
        assert (optim.name, optim.lr, optim.schedule) == ("adamw", 1e-3, "constant")
    else:  # at most the same parameters, steps and characters
        assert (model.feed_forward, model.position) == ("relu2", "rotary")
        assert (optim.name, optim.lr, optim.schedule) == ("adamw", 6e-3, "cosine")
        assert parameters_of(plan) <= 129 * vocabulary + 201_344
    own = compose_config("train", [f"experiment={experiment}"])
    assert own.prompt == " " and own.data.max_samples == 211_971 and "estimate" in own.eval_after
    batch = first_batch(config, plan, corpus)
    assert batch["input"].shape == (16, 32)
    assert (batch["input"][:, 1:] == batch["target"][:, :-1]).all()


@pytest.mark.fast
def test_fineweb_16m_has_the_published_settings(tmp_path: Path) -> None:
    config, plan, corpus = open_experiment(tmp_path, "fineweb_16m")
    model, data, optim = plan.model, config.data, config.optim
    assert (model.n_layer, model.d_model, model.n_head, model.norm) == (4, 256, 8, "pre")
    assert (model.feed_forward, model.position, model.context_length) == ("gelu", "learned", 1024)
    assert (model.vocab_size, model.tied_head, model.window) == (50_304, True, 512)
    assert parameters_of(plan) == 16_299_520
    assert (plan.shape.batch_size, plan.tokens_per_step, plan.steps) == (4, 32_768, 12_207)
    assert plan.steps * plan.tokens_per_step == pytest.approx(400e6, rel=1e-4)
    own = compose_config("train", ["experiment=fineweb_16m"])
    assert own.data.max_tokens * (1 - own.data.split) == 300e6
    assert own.data.hub_config == "sample-10BT" and own.prompt == "Hello, I'm a language model,"
    assert (optim.lr, optim.min_lr, optim.warmup_steps) == (6e-4, 6e-5, 469)
    assert optim.schedule == "cosine"
    assert (optim.weight_decay, optim.betas, optim.grad_clip) == (0.1, [0.9, 0.95], 1.0)
    assert config.eval_before == ["perplexity", "samples", "hellaswag"] and config.num_samples == 4
    assert config.eval_after == ["perplexity", "hellaswag"] and config.sampling.top_k == 50
    assert config.trainer.keep_step_checkpoints and 5000 % config.trainer.checkpoint_every == 0
    assert data.batching == "random"
    assert first_batch(config, plan, corpus)["input"].shape == (4, 512)


# Replaces data and weights that would have to be downloaded.
OFFLINE = {
    "spam_classifier": ["data=toy_spam", "model=toy", "model.pretrained=null"],
    "instruction_tuning": ["data=toy_instructions", "model=toy", "model.pretrained=null"],
    "gpt2_pretrained": [
        *("data=toy_stories", "model=toy", "model.pretrained=null", "model.context_length=256")
    ],
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_files_are_short_and_start_with_their_command(experiment: str) -> None:
    lines = (
        (ROOT / "conf" / "experiment" / f"{experiment}.yaml")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    assert len(lines) < 25
    assert lines[1].startswith(f"# python train.py experiment={experiment}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_offline_with_a_tiny_model(
    command, tmp_path: Path, experiment: str
) -> None:
    """The tests above build the full sizes on the meta device."""
    data = OFFLINE.get(experiment, ["data=toy_stories"])
    result = command("train", f"experiment={experiment}", *data, "profile=smoke", *TINY)
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    own = compose_config("train", [f"experiment={experiment}"])
    stored = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert stored["tokenizer"]["name"] == own.tokenizer.name
    for key in ("batching", "row_length", "eot_first", "learn_eot"):
        assert stored["data"][key] == getattr(own.data, key), key
    assert summary["experiment"] == experiment and summary["steps"] == 2


def test_each_epoch_prints_its_average_loss(command, tmp_path: Path) -> None:
    size = ["trainer.max_epochs=2", "trainer.max_steps=null", "data.max_samples=30"]
    result = command("train", *TINY, "profile=smoke", *size, "data.batch_size=7")
    assert result.code == 0, result.err
    printed = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    (metrics,) = (tmp_path / "runs").glob("*/metrics.csv")
    column = (
        metrics.read_text(encoding="utf-8").splitlines()[0].split(",").index("train/epoch_loss")
    )
    stored = [
        row.split(",")[column] for row in metrics.read_text(encoding="utf-8").splitlines()[1:]
    ]
    losses = [float(value) for value in stored if value]
    assert printed == [f"epoch {n}: average loss {loss:.4f}" for n, loss in enumerate(losses, 1)]
    assert len(losses) == 2 and losses[1] < losses[0]
