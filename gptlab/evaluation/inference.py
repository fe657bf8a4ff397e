"""Run a network over batches, without dropout and without gradients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from gptlab.model.gpt import GPT
from gptlab.utils.device import autocast

if TYPE_CHECKING:  # imports Lightning, which the app does not need
    from gptlab.data.dataloader import Batch, ValidationBatches


@contextmanager
def eval_mode(net: GPT) -> Iterator[torch.device]:
    """Switch dropout off in the block; yields the network's device."""
    was_training = net.training
    net.eval()
    try:
        yield next(net.parameters()).device
    finally:
        net.train(was_training)


def load_batches(batches: "ValidationBatches", progress: str | None = None) -> Iterator["Batch"]:
    """Read all batches; `progress` names a progress bar, shown only on a terminal."""
    disable = None if progress else True
    bar = tqdm(range(len(batches)), desc=progress, unit=" batches", disable=disable, leave=False)
    return (batches[number] for number in bar)


@torch.inference_mode()
def iterate_logits(
    net: GPT, batches: Iterable["Batch"], precision: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the logits (B, T, V) and targets (B, T) of each batch on the network's device, and
    the targets on the CPU."""
    with eval_mode(net) as device:
        for batch in batches:
            with autocast(precision, device.type):
                logits_BxTxV = net(batch["input"].to(device))
            yield logits_BxTxV, batch["target"].to(device), batch["target"]
