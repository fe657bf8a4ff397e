"""How well a classifier works: accuracy, F1, confusion. In shapes: N messages, C classes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.dataloader import Batch
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer
from gptlab.evaluation.context import EvalContext, Results, named_results
from gptlab.evaluation.inference import eval_mode, in_order
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.loss import perplexity
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass
class ClassificationResult:
    """Figures over all messages."""

    loss: float  # nats per message
    accuracy: float
    f1: float  # of the second class of two; the mean over classes of more
    confusion: list[list[int]]  # C × C: row: the true class, column: the predicted one

    @property
    def messages(self) -> int:
        return sum(map(sum, self.confusion))


def classifier_results(context: EvalContext, split: str) -> Results:
    """Evaluate a classifier on a split; with a count for each pair of true and predicted class."""
    classes = context.corpus.classes or []
    result = evaluate_classifier(context.net, in_order(context.batches(split)), context.precision)
    figures = {
        "loss": result.loss,
        "perplexity": perplexity(result.loss),
        "accuracy": result.accuracy,
        "f1": result.f1,
        "tokens": result.messages,
    }
    for true, row in zip(classes, result.confusion, strict=True):
        for predicted, count in zip(classes, row, strict=True):
            figures[f"{true}_as_{predicted}"] = count
    return named_results(split, figures)


def make_metrics(classes: int) -> "MetricCollection":
    from torchmetrics import MetricCollection  # takes seconds to import
    from torchmetrics.classification import (
        BinaryF1Score,
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
    )

    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1": BinaryF1Score() if classes == 2 else MulticlassF1Score(classes),
            "confusion": MulticlassConfusionMatrix(classes),
        }
    )


def classification_logits(net: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute logits (N, C) at the messages' last tokens, and their classes (N,)."""
    source_BxT, target_BxT = batch["input"], batch["target"]
    labelled_BxT = target_BxT != IGNORE_INDEX
    logits_NxC = net.head(net.hidden(source_BxT)[labelled_BxT])
    return logits_NxC.float(), target_BxT[labelled_BxT]


@torch.inference_mode()
def evaluate_classifier(net: GPT, batches: Iterable[Batch], precision: str) -> ClassificationResult:
    nats = 0.0
    with eval_mode(net) as device:
        metrics = make_metrics(net.head.out_features).to(device)
        for batch in batches:
            on_device = {name: batch[name].to(device) for name in ("input", "target")}
            with autocast(precision, device.type):
                logits_NxC, labels_N = classification_logits(net, on_device)
            metrics.update(logits_NxC.argmax(dim=1), labels_N)
            nats += float(F.cross_entropy(logits_NxC, labels_N, reduction="sum"))
    computed = metrics.compute()
    result = ClassificationResult(
        nats, float(computed["accuracy"]), float(computed["f1"]), computed["confusion"].tolist()
    )
    result.loss /= result.messages
    return result


def class_names(model: LoadedModel) -> list[str]:
    """Read the classes of a stored classifier; empty for a model that generates text."""
    names = model.metadata.get("classes")
    known = isinstance(names, list) and len(names) == model.net.config.n_classes
    return [str(name) for name in names or []] if known else []


def rank_classes(model: LoadedModel, text: str, unknown: str) -> list[tuple[float, str]]:
    """Classify a message: the probability and name of each class, the most likely first.

    `unknown=skip` drops characters that the vocabulary lacks. Raises UserError for a text that is
    empty or cannot be encoded, and for a model that diverged.
    """
    if isinstance(model.tokenizer, VocabularyTokenizer):
        model.tokenizer.unknown = unknown
    text = text.strip()  # as in training
    if not text:
        raise UserError("text: is empty; write a message")
    if not model.tokenizer.encode(text):
        raise UserError("text: has no character that is in the model's vocabulary")
    probabilities = class_probabilities(model.net, model.tokenizer, text, model.eot_first)
    if not all(map(math.isfinite, probabilities)):
        raise UserError("the model's logits are not finite: its training diverged")
    return sorted(zip(probabilities, class_names(model), strict=True), reverse=True)


@torch.inference_mode()
def class_probabilities(net: GPT, tokenizer: Tokenizer, text: str, eot_first: bool) -> list[float]:
    """Classify one message, cut to the model's context.

    Raises UserError for characters that the vocabulary lacks.
    """
    ids = tokenizer.encode(text)
    ids = ([tokenizer.eot, *ids] if eot_first or not ids else ids)[: net.config.window]
    hidden_1xTxD = net.hidden(torch.tensor([ids], device=next(net.parameters()).device))
    return net.head(hidden_1xTxD[0, -1]).float().softmax(dim=0).tolist()
