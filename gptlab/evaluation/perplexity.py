"""Measure how well a model predicts a text: loss, perplexity, and bits per byte."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from gptlab.data.dataloader import Batch
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.evaluation.classification import evaluate_classifier
from gptlab.evaluation.document_scores import score_documents
from gptlab.evaluation.eval_context import EvalContext, Results, named_results
from gptlab.evaluation.inference import iterate_logits, load_batches
from gptlab.model.gpt import GPT
from gptlab.model.loss import bits_per_byte, perplexity, summed_cross_entropy

ESTIMATE_BATCHES = 200  # as nanoGPT's `eval_iters`


def evaluate_perplexity(context: EvalContext) -> Results:
    """Score every held-out split in order, each target once; classifiers also by accuracy."""
    results: Results = {}
    for split in (name for name in context.corpus.splits if name != "train"):
        if context.corpus.classes:
            results |= evaluate_classifier(context, split)
        elif context.by_document:
            batches, ends = context.batches(split), context.corpus.document_ends(split)
            settings = context.byte_counts, context.precision
            scores = score_documents(context.net, batches, ends, *settings)
            context.document_scores[split] = scores
            results |= named_results(split, scores.metrics())
        else:
            results |= split_results(context, split, load_batches(context.batches(split)))
    return results


def evaluate_estimate(context: EvalContext) -> Results:
    """Estimate the validation loss from a few random batches, as other projects report it."""
    batches = context.random_batches("valid")
    return split_results(context, "estimate", (batches[n] for n in range(ESTIMATE_BATCHES)))


def evaluate_training_windows(context: EvalContext) -> Results:
    """Score at most as many training targets as a validation pass, to show memorization."""
    batches = context.random_batches("train")
    rows = batches.shape.sequences_per_step
    max_tokens = context.max_tokens or context.data.valid_tokens
    limit = max(1, max_tokens // (rows * batches.sequences.length))
    count = min(-(-len(batches.sequences) // rows), limit)
    return split_results(context, "windows", (batches[n] for n in range(count)))


def split_results(context: EvalContext, name: str, batches: Iterable[Batch]) -> Results:
    score = score_split(context.net, batches, context.byte_counts, context.precision)
    return named_results(name, score.metrics())


@dataclass
class Score:
    """Sums over all scored targets."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    def metrics(self) -> dict[str, float]:
        return {
            "loss": self.loss,
            "perplexity": perplexity(self.loss),
            "bits_per_byte": bits_per_byte(self.nats, self.bytes),
            "tokens": self.tokens,
        }


def score_split(net: GPT, batches: Iterable[Batch], byte_counts: Tensor, precision: str) -> Score:
    """Sum the loss over all targets that are not masked, on the network's device.

    `byte_counts` is the result of `count_token_bytes`; `precision` is Lightning's name.
    """
    total = Score(0.0, 0, 0)
    for logits_BxTxV, target_BxT, cpu_target_BxT in iterate_logits(net, batches, precision):
        real = cpu_target_BxT[cpu_target_BxT != IGNORE_INDEX]
        total.nats += float(summed_cross_entropy(logits_BxTxV, target_BxT))
        total.tokens += len(real)
        total.bytes += int(byte_counts.cpu()[real].sum())
    return total
