"""Evaluate HellaSwag: choose the most likely of four endings.

Zellers et al. (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?", arXiv:1905.07830.
Each ending is scored by the loss of its own tokens after the context: their sum (`acc`) and their
mean (`acc_norm`). Guessing scores 25 %. Two styles spell questions and take the mean differently:
plain completions as in build-nanogpt, and the lm-evaluation-harness's. Never compare results of
different styles.
"""

import json
import math
import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gptlab.config.schema import EvaluateConfig, HellaswagConfig, TrainConfig
from gptlab.data.download import download_file
from gptlab.data.tokenizer import Tokenizer
from gptlab.evaluation.eval_context import EvalContext, Results, named_results
from gptlab.evaluation.inference import eval_mode
from gptlab.model.gpt import GPT
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
SHA256 = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"


@dataclass
class Question:
    """A question as a plain completion; `acc_norm` takes the mean over an ending's tokens."""

    context: str
    endings: list[str]
    label: int  # index of the right ending

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Question":
        return cls(row["ctx"], list(row["endings"]), int(row["label"]))

    def encode(self, tokenizer: Tokenizer, ending: str) -> tuple[list[int], list[int]]:
        """Encode the context and the ending."""
        return tokenizer.encode(self.context), tokenizer.encode(" " + ending)

    def norm_length(self, ending: str, scored: int) -> int:
        """Return the divisor of an ending's loss for `acc_norm`; `scored` counts its tokens."""
        return scored


class HarnessQuestion(Question):
    """A question as in the lm-evaluation-harness (task `hellaswag`, version 1): the topic first,
    WikiHow's markup removed; `acc_norm` takes the mean over an ending's characters."""

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "HarnessQuestion":
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        endings = [strip_markup(ending) for ending in row["endings"]]
        return cls(strip_markup(context), endings, int(row["label"]))

    def encode(self, tokenizer: Tokenizer, ending: str) -> tuple[list[int], list[int]]:
        """Encode both in one piece, then split where the context alone would end."""
        whole = tokenizer.encode(f"{self.context} {ending}")
        context = tokenizer.encode(self.context.rstrip())
        return whole[: len(context)], whole[len(context) :]

    def norm_length(self, ending: str, scored: int) -> int:
        return len(ending)


def strip_markup(text: str) -> str:
    """Remove the bracketed markup of questions from WikiHow."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def evaluate_hellaswag(
    context: EvalContext, name: str = "hellaswag", style: type[Question] = Question
) -> Results:
    config = context.config.hellaswag
    questions = read_questions(config, context.raw_dir, style)
    settings = context.precision, config.batch_size
    result = answer_questions(context.net, context.tokenizer, questions, *settings)
    return named_results(name, result.metrics())


def check_hellaswag_file(config: TrainConfig | EvaluateConfig) -> None:
    """Raise UserError if the questions cannot be read or downloaded."""
    read_questions(config.hellaswag, Path(config.corpus_root or "corpora").expanduser() / "raw")


def check_hellaswag(context: EvalContext, style: type[Question] = Question) -> None:
    """Raise UserError if the vocabulary cannot encode the questions."""
    questions = read_questions(context.config.hellaswag, context.raw_dir, style)
    try:
        make_ending_sequences(questions, context.tokenizer, 1)
    except UserError as error:
        raise UserError(f"hellaswag: {error}") from None


@dataclass
class HellaswagResult:
    """The answer to each question, by the sum and by the mean of the losses."""

    labels: list[int]
    answers: list[int]
    answers_norm: list[int]

    def metrics(self) -> dict[str, float]:
        """Return both accuracies, and the binomial standard error of acc_norm."""
        count = len(self.labels)
        acc = sum(map(operator.eq, self.answers, self.labels)) / count
        acc_norm = sum(map(operator.eq, self.answers_norm, self.labels)) / count
        error = math.sqrt(acc_norm * (1 - acc_norm) / count)
        accuracies = {"acc": acc, "acc_norm": acc_norm, "standard_error": error, "chance": 0.25}
        return {"n": count, **accuracies}


def read_questions(
    config: HellaswagConfig, raw_dir: Path, style: type[Question] = Question
) -> list[Question]:
    """Read the questions of `hellaswag.path`, or of the official file, downloaded into `raw_dir`.

    Raises UserError if the file cannot be read or is not HellaSwag's.
    """
    questions: list[Question] = []
    where = f"hellaswag.path={config.path}" if config.path else f"corpus_root: {raw_dir}"
    try:
        path = Path(config.path).expanduser() if config.path else download_questions(raw_dir)
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if config.max_questions and len(questions) == config.max_questions:
                    break
                questions.append(parse_question(line, f"{where}, line {number}", style))
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: {reason}") from None
    if not questions:
        raise UserError(f"{where}: has no questions")
    return questions


def download_questions(raw_dir: Path) -> Path:
    otherwise = (
        "name a copy with hellaswag.path=FILE, or leave hellaswag out (in training: "
        "eval_before= eval_after=perplexity)"
    )
    try:
        return download_file(URL, SHA256, raw_dir / "hellaswag_val.jsonl", otherwise)
    except UserError as error:
        raise UserError(f"hellaswag: {error}") from None


def parse_question(line: str, where: str, style: type[Question]) -> Question:
    try:
        question = style.from_row(json.loads(line))
        texts = [question.context, *question.endings]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("context and endings must be text")
        if len(texts) != 5 or not 0 <= question.label < 4:
            raise ValueError("must have four endings, one of them right")
        return question
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a HellaSwag question ({error!r:.80})") from None


@dataclass
class EndingSequence:
    """One ending after its context."""

    ids: list[int]
    begin: int  # index of the ending's first token
    norm_length: int  # divides the loss for `acc_norm`


def make_ending_sequences(
    questions: list[Question], tokenizer: Tokenizer, context_length: int
) -> list[EndingSequence]:
    """Make four sequences for each question, cut on the left to the model's context.

    Raises UserError for text that the vocabulary lacks.
    """
    sequences: list[EndingSequence] = []
    for question in questions:
        for ending in question.endings:
            context, tokens = question.encode(tokenizer, ending)
            ids = [*(context or [tokenizer.eot]), *tokens][-(context_length + 1) :]
            begin = max(1, len(ids) - len(tokens))
            norm_length = max(1, question.norm_length(ending, len(ids) - begin))
            sequences.append(EndingSequence(ids, begin, norm_length))
    return sequences


@torch.inference_mode()
def answer_questions(
    net: GPT, tokenizer: Tokenizer, questions: list[Question], precision: str, batch_size: int
) -> HellaswagResult:
    """Answer all questions on the network's device."""
    sequences = make_ending_sequences(questions, tokenizer, net.config.window)
    order = sorted(range(len(sequences)), key=lambda n: len(sequences[n].ids))  # little padding
    sums, lengths = torch.zeros(len(order)), torch.tensor([s.norm_length for s in sequences])
    starts = range(0, len(order), batch_size)
    bar = tqdm(starts, desc="hellaswag", unit=" batches", disable=None, leave=False)
    with eval_mode(net):
        for start in bar:
            numbers = order[start : start + batch_size]
            sums[numbers] = ending_losses(net, [sequences[n] for n in numbers], precision)
    answers, answers_norm = (x.view(-1, 4).argmin(1).tolist() for x in (sums, sums / lengths))
    return HellaswagResult([question.label for question in questions], answers, answers_norm)


def ending_losses(net: GPT, batch: list[EndingSequence], precision: str) -> Tensor:
    """Sum the loss of each ending in nats, (B,); the head runs on the endings' tokens alone."""
    device = next(net.parameters()).device
    longest = max(len(sequence.ids) for sequence in batch)
    ids_BxT = torch.zeros(len(batch), longest, dtype=torch.long)
    ending_BxT = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, each in enumerate(batch):
        ids_BxT[row, : len(each.ids)] = torch.tensor(each.ids)
        ending_BxT[row, each.begin : len(each.ids)] = True
    ids_BxT, ending_BxT = ids_BxT.to(device), ending_BxT.to(device)
    with autocast(precision, device.type):
        hidden_BxTxD = net.hidden_states(ids_BxT[:, :-1])
        logits_NxV = net.head(hidden_BxTxD[ending_BxT[:, 1:]])
    nats_N = F.cross_entropy(logits_NxV.float(), ids_BxT[ending_BxT], reduction="none")
    nats_BxT = torch.zeros(ending_BxT.shape, device=device).masked_scatter(ending_BxT, nats_N)
    return nats_BxT.sum(dim=1).cpu()
