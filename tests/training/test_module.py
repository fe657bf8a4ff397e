"""The training recipe: gradients, dropout, validation, switches."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from gptlab.config.schema import ModelConfig, OptimConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.evaluation.eval_context import count_token_bytes
from gptlab.evaluation.perplexity import score_split
from gptlab.model.gpt import GPT
from gptlab.model.loss import ChunkedCrossEntropy, summed_cross_entropy
from gptlab.training.module import LanguageModel
from tests.conftest import TINY, toy_data


def tiny_net(vocab_size: int, **changes: Any) -> GPT:
    torch.manual_seed(0)
    settings = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 128}
    return GPT(ModelConfig(vocab_size=vocab_size, **(settings | changes)))


@pytest.mark.fast
def test_padded_batches_have_the_loss_of_their_sequences(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(), 128, BatchShape(6, 1), seed=1)
    batch = data.train_dataloader().dataset[0]
    net = tiny_net(toy_corpus.tokenizer.vocab_size)
    batch_loss = summed_cross_entropy(net(batch["input"]), batch["target"])
    sequence_losses, tokens = [], 0
    for source, target in zip(batch["input"], batch["target"], strict=True):
        length = int((target != IGNORE_INDEX).sum())
        logits = net(source[None, :length])
        sequence_losses.append(F.cross_entropy(logits[0], target[:length], reduction="sum"))
        tokens += length
    torch.testing.assert_close(batch_loss, sum(sequence_losses), rtol=1e-5, atol=1e-4)
    assert tokens == batch["step_tokens"]


class GradientRecorder(Callback):
    """Keep the gradients of the last optimizer step."""

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.gradients = [p.grad.clone() for p in module.net.parameters()]


def last_gradients(
    corpus: Corpus, recorder: GradientRecorder, shape: BatchShape, steps: int, dropout: float
) -> list[Tensor]:
    """Train and return the gradients of the last step."""
    net = tiny_net(corpus.tokenizer.vocab_size, dropout=dropout)
    data = TextDataModule(corpus, toy_data(), 128, shape, seed=1)
    byte_counts = count_token_bytes(corpus.tokenizer, corpus.tokenizer.vocab_size)
    trainer = Trainer(
        max_epochs=-1, max_steps=steps, accumulate_grad_batches=shape.accumulate,
        accelerator="cpu", callbacks=[recorder], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(LanguageModel(net, OptimConfig(), steps, byte_counts, seed=1), datamodule=data)
    return recorder.gradients


@pytest.mark.fast
def test_accumulation_gives_the_gradient_of_the_whole_batch(toy_corpus: Corpus) -> None:
    """1 × 32 and 32 × 1, with stories of different lengths."""
    whole, accumulated = (
        last_gradients(toy_corpus, GradientRecorder(), shape, steps=1, dropout=0.0)
        for shape in (BatchShape(32, 1), BatchShape(1, 32))
    )
    for a, b in zip(whole, accumulated, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.fast
def test_dropout_depends_on_the_micro_batch_only(toy_corpus: Corpus) -> None:
    """Not on random numbers that something else has drawn before."""

    class Disturbance(GradientRecorder):
        def __init__(self, draws: int):
            self.draws = draws

        def on_train_batch_end(self, *_: object) -> None:
            torch.rand(self.draws)

    undisturbed, disturbed = (
        last_gradients(toy_corpus, Disturbance(draws), BatchShape(2, 1), steps=2, dropout=0.5)
        for draws in (0, 17)
    )
    assert all(map(torch.equal, undisturbed, disturbed))


@pytest.mark.fast
def test_scores_are_weighted_by_tokens_and_count_bytes(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(batch_size=3), 128, BatchShape(3, 1), seed=1)
    net = tiny_net(toy_corpus.tokenizer.vocab_size)
    byte_counts = count_token_bytes(toy_corpus.tokenizer, net.config.vocab_size)
    score = score_split(net, data.val_dataloader(), byte_counts, "32-true")
    valid = toy_corpus.splits["valid"]
    assert (score.tokens, score.bytes) == (valid.tokens, valid.bytes)
    chance = torch.tensor(float(net.config.vocab_size)).log().item()
    assert score.loss == pytest.approx(chance, abs=0.1)
    bits = score.nats / torch.tensor(2.0).log().item()
    assert score.metrics()["bits_per_byte"] == pytest.approx(bits / valid.bytes)


def test_compiling_keeps_the_names_of_weights() -> None:
    net = tiny_net(20)
    names = list(net.state_dict())
    net.compile()
    assert list(net.state_dict()) == names


@pytest.mark.parametrize("enabled", [True, False])
def test_chunked_loss_and_kept_memory_can_be_turned_off(
    train_once, monkeypatch, enabled: bool
) -> None:
    chunked, kept = [], []
    apply = ChunkedCrossEntropy.apply
    monkeypatch.setattr("gptlab.model.gpt.MAX_LOGITS", 10_000)
    monkeypatch.setattr(
        ChunkedCrossEntropy, "apply", lambda *inputs: chunked.append(1) or apply(*inputs)
    )
    monkeypatch.setattr("gptlab.training.trainer.keep_freed_memory", lambda: kept.append(1))
    value = str(enabled).lower()
    keys = [f"trainer.chunked_loss={value}", f"trainer.keep_freed_memory={value}"]
    train_once(*TINY, "profile=smoke", *keys)
    assert bool(chunked) == bool(kept) == enabled
