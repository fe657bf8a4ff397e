"""How well a model predicts a split: one deterministic pass, weighted by tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.data.loader import Batch
from gptlab.data.windows import IGNORED
from gptlab.device import autocast
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity, summed_cross_entropy


@dataclass
class Score:
    """Sums over all scored targets."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.bytes)


@torch.inference_mode()
def score(net: GPT, batches: Iterable[Batch], token_bytes: Tensor, precision: str) -> Score:
    """Scores every target that counts, dropout off, on the device where the net is.

    `token_bytes` holds for each token id the bytes it writes; `precision` is Lightning's name.
    """
    device = next(net.parameters()).device
    total = Score(0.0, 0, 0)
    was_training = net.training
    net.eval()
    for batch in batches:
        target = batch["target"].to(device)
        with autocast(precision, device.type):
            logits = net(batch["input"].to(device))
        real = batch["target"][batch["target"] != IGNORED]
        total.nats += float(summed_cross_entropy(logits, target))
        total.tokens += len(real)
        total.bytes += int(token_bytes.cpu()[real].sum())
    net.train(was_training)
    return total
