"""The loss: computed in chunks, and as perplexity and bits per byte."""

import math

import pytest
import torch
from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity, summed_cross_entropy

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_a_chunked_loss_has_the_same_value_and_gradients(tied: bool, half: bool, monkeypatch):
    monkeypatch.setattr("gptlab.model.loss.SOFTMAX_BLOCK", 57 * 3)
    config = ModelConfig(
        n_layer=1, n_head=2, d_model=16, context_length=128, vocab_size=57, dropout=0.1,
        tied_head=tied, head_bias=not tied,
    )  # fmt: skip
    torch.manual_seed(0)
    net = GPT(config)
    source, target = torch.randint(57, (2, 3, 20))
    target[0, 4:] = IGNORE_INDEX

    def loss_and_gradients(max_logits: int) -> tuple[Tensor, list[Tensor]]:
        net.max_logits = max_logits
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            nats = net(source, target)
        (nats / 3).backward()
        gradients = [p.grad for p in net.parameters()]
        net.zero_grad(set_to_none=True)
        net.eval()
        with torch.no_grad():
            expected = summed_cross_entropy(net(source), target)
            torch.testing.assert_close(net(source, target), expected)
        net.train()
        return nats, gradients

    expected_nats, expected = loss_and_gradients(2**25)  # all 60 rows at once
    largest = max(float(g.abs().max()) for g in expected)
    for max_logits in (57 * 7, 57 * 60):
        nats, gradients = loss_and_gradients(max_logits)
        torch.testing.assert_close(nats, expected_nats, rtol=1e-3 if half else 1e-6, atol=0)
        for gradient, reference in zip(gradients, expected, strict=True):
            difference = float((gradient - reference).abs().max())
            assert difference <= (2e-2 if half else 1e-6) * largest


def test_perplexity_and_bits_per_byte() -> None:
    assert perplexity(2.0) == pytest.approx(7.389, abs=5e-4)
    assert perplexity(1e6) == math.inf
    assert bits_per_byte(math.log(2) * 30, 10) == pytest.approx(3.0)
