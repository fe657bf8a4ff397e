"""How well a model tells classes apart. In shapes, N is the messages, C the classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.dataloader import Batch
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.data.tokenizer import Tokenizer
from gptlab.model.gpt import GPT
from gptlab.utils.device import autocast

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass
class ClassificationResult:
    """Figures over all messages."""

    loss: float  # nats a message
    accuracy: float
    f1: float  # of two classes the second's; of more the mean over classes
    confusion: list[list[int]]  # C × C: messages of the row's class, told to be of the column's

    @property
    def messages(self) -> int:
        return sum(map(sum, self.confusion))


def make_metrics(classes: int) -> "MetricCollection":
    from torchmetrics import MetricCollection  # takes seconds, and whoever only asks needs none
    from torchmetrics.classification import (
        BinaryF1Score,
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
    )

    two = classes == 2
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1": BinaryF1Score() if two else MulticlassF1Score(classes),
            "confusion": MulticlassConfusionMatrix(classes),
        }
    )


def classification_logits(net: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and classes (N,) of a batch's messages, read off at their last tokens."""
    source_BxT, target_BxT = batch["input"], batch["target"]
    labelled_BxT = target_BxT != IGNORE_INDEX
    logits_NxC = net.head(net.hidden(source_BxT)[labelled_BxT])
    return logits_NxC.float(), target_BxT[labelled_BxT]


@torch.inference_mode()
def evaluate_classifier(net: GPT, batches: Iterable[Batch], precision: str) -> ClassificationResult:
    """The figures of all batches, dropout off, on the device where the net is."""
    device = next(net.parameters()).device
    metrics, nats = make_metrics(net.config.n_classes).to(device), 0.0
    was_training = net.training
    net.eval()
    for batch in batches:
        here = {name: batch[name].to(device) for name in ("input", "target")}
        with autocast(precision, device.type):
            logits_NxC, labels_N = classification_logits(net, here)
        metrics.update(logits_NxC.argmax(dim=1), labels_N)
        nats += float(F.cross_entropy(logits_NxC, labels_N, reduction="sum"))
    net.train(was_training)
    found = metrics.compute()
    confusion = found["confusion"].tolist()
    total = sum(map(sum, confusion))
    return ClassificationResult(
        nats / total, float(found["accuracy"]), float(found["f1"]), confusion
    )


@torch.inference_mode()
def class_probabilities(net: GPT, tokenizer: Tokenizer, text: str, eot_first: bool) -> list[float]:
    """Of each class, for one message, of which the model reads as much as it can see at once.

    Raises UserError for characters that the vocabulary lacks.
    """
    ids = tokenizer.encode(text)
    ids = ([tokenizer.eot, *ids] if eot_first or not ids else ids)[: net.config.window]
    hidden_1xTxD = net.hidden(torch.tensor([ids], device=next(net.parameters()).device))
    return net.head(hidden_1xTxD[0, -1]).float().softmax(dim=0).tolist()
