"""The recipe: losses, gradients, schedules."""

import math
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from gptlab.config.schema import ModelConfig, OptimConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.evaluation.context import bytes_of_tokens
from gptlab.evaluation.perplexity import score_split
from gptlab.model.gpt import GPT
from gptlab.model.loss import (
    ChunkedCrossEntropy,
    bits_per_byte,
    perplexity,
    summed_cross_entropy,
)
from gptlab.training.module import LanguageModel
from gptlab.training.optim import learning_rate, make_optimizer, parameter_groups, total_norm
from tests.conftest import TINY, toy_data

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE_PAGES = HUGE.read_text() if HUGE.exists() else ""


def tiny_net(vocab_size: int, **changes) -> GPT:
    torch.manual_seed(0)
    settings = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 128}
    return GPT(ModelConfig(vocab_size=vocab_size, **(settings | changes)))


def test_padded_batches_have_the_loss_of_their_sequences(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(), 128, BatchShape(6, 1), seed=1)
    batch = data.train_dataloader().dataset[0]
    net = tiny_net(toy_corpus.tokenizer.vocab_size)
    together = summed_cross_entropy(net(batch["input"]), batch["target"])
    alone, tokens = 0.0, 0
    for source, target in zip(batch["input"], batch["target"], strict=True):
        length = int((target != IGNORE_INDEX).sum())
        logits = net(source[None, :length])
        losses = torch.nn.functional.cross_entropy(logits[0], target[:length], reduction="none")
        alone += losses.sum()
        tokens += length
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
    assert tokens == batch["step_tokens"]


class KeepGradients(Callback):
    """The gradients of the first optimizer step."""

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.gradients = [p.grad.clone() for p in module.net.parameters()]


def quiet_trainer(**arguments: object) -> Trainer:
    return Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        limit_val_batches=0, **arguments,
    )  # fmt: skip


def one_step(corpus: Corpus, batch_size: int, accumulate: int) -> list[torch.Tensor]:
    net = tiny_net(corpus.tokenizer.vocab_size, dropout=0.0)
    data = TextDataModule(corpus, toy_data(), 128, BatchShape(batch_size, accumulate), seed=1)
    token_bytes = bytes_of_tokens(corpus.tokenizer, corpus.tokenizer.vocab_size)
    keep = KeepGradients()
    trainer = quiet_trainer(max_steps=1, accumulate_grad_batches=accumulate, callbacks=[keep])
    trainer.fit(LanguageModel(net, OptimConfig(), 1, token_bytes, seed=1), datamodule=data)
    return keep.gradients


def test_accumulation_gives_the_gradient_of_the_whole_batch(toy_corpus: Corpus) -> None:
    """1 × 32 and 32 × 1, stories of uneven lengths."""
    whole, parts = one_step(toy_corpus, 32, 1), one_step(toy_corpus, 1, 32)
    for a, b in zip(whole, parts, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_schedules() -> None:
    def rates(**settings) -> list[float]:
        config = OptimConfig(lr=1.0, **settings)
        return [learning_rate(step, 100, config) for step in range(101)]

    assert set(rates()) == {1.0}
    warm = rates(warmup_steps=10)
    assert warm[:10] == pytest.approx([i / 10 for i in range(1, 11)]) and set(warm[10:]) == {1.0}
    cosine = rates(schedule="cosine", warmup_steps=10, min_lr=0.1)
    assert cosine[10] == pytest.approx(1.0) and cosine[55] == pytest.approx(0.55)
    assert cosine[100] == pytest.approx(0.1) and cosine[10:] == sorted(cosine[10:], reverse=True)
    wsd = rates(schedule="wsd", cooldown_fraction=0.2, min_lr=0.2)
    assert set(wsd[:81]) == {1.0} and wsd[90] == pytest.approx(0.6)
    assert wsd[100] == pytest.approx(0.2)


def test_decay_is_for_matrices_only_or_for_all() -> None:
    net = tiny_net(20)
    by_name = {id(p): name for name, p in net.named_parameters()}
    groups = parameter_groups(net, OptimConfig(weight_decay=0.1))
    rates = {by_name[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert rates.pop("embedding.weight") == 0.1
    assert all((rate == 0.1) == (net.get_parameter(name).ndim == 2) for name, rate in rates.items())
    (group,) = parameter_groups(net, OptimConfig(weight_decay_on="all"))
    assert len(group["params"]) == len(by_name)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_equal_torchs_by_name(name: str) -> None:
    optimizer = make_optimizer(tiny_net(20), OptimConfig(name=name, lr=0.5), fused=True)
    assert type(optimizer).__name__.lower() == name
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_figures() -> None:
    assert perplexity(2.0) == pytest.approx(7.389, abs=5e-4)
    assert perplexity(1e6) == math.inf
    assert bits_per_byte(math.log(2) * 30, 10) == pytest.approx(3.0)


def test_score_is_weighted_by_tokens_and_counts_bytes(toy_corpus: Corpus) -> None:
    data = TextDataModule(toy_corpus, toy_data(batch_size=3), 128, BatchShape(3, 1), seed=1)
    net = tiny_net(toy_corpus.tokenizer.vocab_size)
    token_bytes = bytes_of_tokens(toy_corpus.tokenizer, net.config.vocab_size)
    got = score_split(net, data.val_dataloader(), token_bytes, "32-true")
    valid = toy_corpus.splits["valid"]
    assert (got.tokens, got.bytes) == (valid.tokens, valid.bytes)
    assert got.loss == pytest.approx(math.log(net.config.vocab_size), abs=0.1)
    assert got.figures()["bits_per_byte"] == pytest.approx(got.nats / math.log(2) / valid.bytes)


def test_compiled_keeps_the_names_of_weights() -> None:
    net = tiny_net(20)
    names = list(net.state_dict())
    net.compile()
    assert list(net.state_dict()) == names


def test_dropout_is_a_function_of_the_micro_batch(toy_corpus: Corpus) -> None:
    """Seeded for its own number: other draws before it change nothing."""
    losses = []
    for drawn_before in (0, 17):

        class Disturb(KeepGradients):
            def on_train_batch_end(self, *_: object, before: int = drawn_before) -> None:
                torch.rand(before)

        losses.append(two_steps(toy_corpus, Disturb()))
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def two_steps(corpus: Corpus, keep: KeepGradients) -> list[torch.Tensor]:
    """The gradients of a second step, with dropout."""
    net = tiny_net(corpus.tokenizer.vocab_size, dropout=0.5)
    data = TextDataModule(corpus, toy_data(), 128, BatchShape(2, 1), seed=1)
    token_bytes = bytes_of_tokens(corpus.tokenizer, corpus.tokenizer.vocab_size)
    trainer = quiet_trainer(max_steps=2, callbacks=[keep])
    trainer.fit(LanguageModel(net, OptimConfig(), 2, token_bytes, seed=1), datamodule=data)
    return keep.gradients


def test_the_norm_of_all_gradients_is_torchs() -> None:
    gradients = [torch.randn(3, 4), torch.randn(5), torch.zeros(2)]
    assert torch.equal(total_norm(gradients), torch.nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_a_loss_in_chunks_is_the_loss(tied: bool, half: bool, monkeypatch) -> None:
    monkeypatch.setattr("gptlab.model.loss.SOFTMAX_BLOCK", 57 * 3)
    net = tiny_net(57, tied_head=tied, head_bias=not tied, dropout=0.1)
    source, target = torch.randint(57, (2, 3, 20))
    target[0, 4:] = IGNORE_INDEX
    found = []
    for at_once in (57 * 7, 57 * 60, 2**25):  # chunks of 7 rows of the 60, and all at once
        net.max_logits = at_once
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            nats = net(source, target)
        (nats / 3).backward()
        found.append((nats, [p.grad for p in net.parameters()]))
        net.zero_grad(set_to_none=True)
        net.eval()
        with torch.no_grad():
            torch.testing.assert_close(
                net(source, target), summed_cross_entropy(net(source), target)
            )
        net.train()
    for nats, gradients in found[:-1]:
        wanted_nats, wanted = found[-1]
        torch.testing.assert_close(nats, wanted_nats, rtol=1e-3 if half else 1e-6, atol=0)
        largest = max(float(g.abs().max()) for g in wanted)
        for mine, right in zip(gradients, wanted, strict=True):
            assert float((mine - right).abs().max()) <= (2e-2 if half else 1e-6) * largest


@pytest.mark.parametrize("wanted", [True, False])
def test_the_loss_is_in_chunks_and_memory_kept_unless_refused(
    command, monkeypatch, wanted: bool
) -> None:
    chunked, kept = [], []
    apply = ChunkedCrossEntropy.apply
    monkeypatch.setattr("gptlab.model.gpt.MAX_LOGITS", 10_000)
    monkeypatch.setattr(
        ChunkedCrossEntropy, "apply", lambda *inputs: chunked.append(1) or apply(*inputs)
    )
    monkeypatch.setattr("gptlab.training.trainer.keep_freed_memory", lambda: kept.append(1))
    keys = [f"trainer.{key}={str(wanted).lower()}" for key in ("chunked_loss", "keep_freed_memory")]
    result = command("train", *TINY, "trainer.max_steps=2", *keys)
    assert result.code == 0, result.err
    assert bool(chunked) == bool(kept) == wanted


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is for glibc")
def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    code = """
import resource, sys, torch
from gptlab.utils.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for number in range(30):
    if number == 20:  # small things have found their places
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = torch.ones(1 << 24)
    del block
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""

    def faults(mode: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", code, mode]))

    pages = (1 << 26) // mmap.PAGESIZE
    assert faults("keep") < pages / 20
    if not HUGE_PAGES.startswith("[always]"):
        assert faults("leave") > pages / 2
