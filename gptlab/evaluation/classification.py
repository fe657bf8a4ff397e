"""Evaluate classifiers: accuracy, F1, confusion. In shapes: N messages, C classes."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.dataloader import Batch
from gptlab.data.prompt_matching import PromptMatch, match_prompt
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.data.tokenizer import Tokenizer
from gptlab.evaluation.eval_context import EvalContext, Results, named_results
from gptlab.evaluation.inference import eval_mode, load_batches
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.loss import perplexity
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@torch.inference_mode()
def evaluate_classifier(context: EvalContext, split: str) -> Results:
    """Evaluate a classifier on a split; count each pair of true and predicted class.

    `loss` is in nats per message. `f1` is that of the second of two classes; with
    more classes, the mean over all. Standard errors are those of a mean over messages.
    """
    classes = context.corpus.classes or []
    nats: list[Tensor] = []
    with eval_mode(context.net) as device:
        metrics = make_metrics(len(classes)).to(device)
        for batch in load_batches(context.batches(split)):
            on_device = {name: batch[name].to(device) for name in ("input", "target")}
            with autocast(context.precision, device.type):
                logits_NxC, labels_N = classification_logits(context.net, on_device)
            metrics.update(logits_NxC.argmax(dim=1), labels_N)
            nats.append(F.cross_entropy(logits_NxC, labels_N, reduction="none").cpu())
    nats_N = torch.cat(nats).double()
    computed = metrics.compute()
    confusion_CxC = computed["confusion"].tolist()  # row: the true class, column: the predicted one
    loss, accuracy, messages = float(nats_N.mean()), float(computed["accuracy"]), len(nats_N)
    figures: dict[str, float | None] = {
        "loss": loss,
        "standard_error": float(nats_N.std()) / math.sqrt(messages) if messages > 1 else None,
        "perplexity": perplexity(loss),
        "accuracy": accuracy,
        "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / messages),
        "f1": float(computed["f1"]),
        "messages": messages,
    }
    for true, row in zip(classes, confusion_CxC, strict=True):
        for predicted, count in zip(classes, row, strict=True):
            figures[f"{true}_as_{predicted}"] = count
    return named_results(split, figures)


def make_metrics(classes: int) -> "MetricCollection":
    from torchmetrics import MetricCollection  # takes seconds
    from torchmetrics import classification as metrics

    return MetricCollection(
        {
            "accuracy": metrics.MulticlassAccuracy(classes, average="micro"),
            "f1": metrics.BinaryF1Score() if classes == 2 else metrics.MulticlassF1Score(classes),
            "confusion": metrics.MulticlassConfusionMatrix(classes),
        }
    )


def classification_logits(net: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute logits (N, C) at the messages' last tokens, and their classes (N,)."""
    source_BxT, target_BxT = batch["input"], batch["target"]
    labeled_BxT = target_BxT != IGNORE_INDEX
    logits_NxC = net.head(net.hidden_states(source_BxT)[labeled_BxT])
    return logits_NxC.float(), target_BxT[labeled_BxT]


def class_names(model: LoadedModel) -> list[str]:
    """Read the classes of a stored classifier; empty for a model that generates text."""
    names = model.metadata.get("classes")
    known = isinstance(names, list) and len(names) == model.net.config.n_classes
    return [str(name) for name in names or []] if known else []


def match_message(tokenizer: Tokenizer, text: str, unknown: str) -> PromptMatch:
    """Match a message with the vocabulary; raise UserError if nothing can be classified."""
    text = text.strip()  # as in training
    if not text:
        raise UserError("text: is empty; write a message")
    match = match_prompt(tokenizer, text, unknown)
    if not match.ids:
        raise UserError("text: has no character that is in the model's vocabulary")
    return match


def rank_classes(model: LoadedModel, ids: list[int]) -> list[tuple[float, str]]:
    """Classify a message: the probability and name of each class, the most likely first.

    Raises UserError for a model that diverged.
    """
    probabilities = class_probabilities(model.net, ids, model.tokenizer.eot, model.eot_first)
    if not all(map(math.isfinite, probabilities)):
        raise UserError("the model's logits are not finite: its training diverged")
    return sorted(zip(probabilities, class_names(model), strict=True), reverse=True)


@torch.inference_mode()
def class_probabilities(net: GPT, ids: list[int], eot: int, eot_first: bool) -> list[float]:
    """Classify one message, cut to the context."""
    ids = ([eot, *ids] if eot_first or not ids else ids)[: net.config.window]
    hidden_1xTxD = net.hidden_states(torch.tensor([ids], device=next(net.parameters()).device))
    return net.head(hidden_1xTxD[0, -1]).float().softmax(dim=0).tolist()
