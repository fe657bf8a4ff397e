"""Cross-entropy in nats, summed over the targets that count."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.windows import IGNORED


def summed_cross_entropy(logits_BxTxV: Tensor, target_BxT: Tensor) -> Tensor:
    """Nats of all real targets together; ignored ones add nothing. In float32 at least."""
    wide = torch.promote_types(logits_BxTxV.dtype, torch.float32)
    return F.cross_entropy(
        logits_BxTxV.flatten(0, 1).to(wide),
        target_BxT.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def perplexity(nats_per_token: float) -> float:
    """exp of the mean loss, infinite where that overflows: 2.0 nats is 7.389."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """A loss that compares across tokenizers: the bits spent on each byte of the scored text."""
    return nats / math.log(2) / text_bytes if text_bytes else math.nan
