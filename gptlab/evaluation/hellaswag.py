"""HellaSwag: which of four endings does the model find likeliest?

Zellers and others (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?",
arXiv:1905.07830. Of each ending, after its context, the loss of its own tokens, as a sum (`acc`)
and as a mean (`acc_norm`). Guessing is right in 25 %. Two styles differ in how they spell a
question and in what the mean is of: completions, as build-nanogpt has them, and those of the
lm-evaluation-harness. Figures of one style are not to be held against those of the other.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gptlab.config.schema import HellaswagConfig
from gptlab.data.download import download_file
from gptlab.data.tokenizer import Tokenizer
from gptlab.model.gpt import GPT
from gptlab.utils.device import autocast
from gptlab.utils.errors import UserError

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
SHA256 = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"


@dataclass
class Question:
    """A question as a completion: the text as it stands, the mean over an ending's tokens."""

    context: str
    endings: list[str]
    label: int  # the right ending's place

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Question":
        return cls(row["ctx"], list(row["endings"]), int(row["label"]))

    def encode(self, tokenizer: Tokenizer, ending: str) -> tuple[list[int], list[int]]:
        """The context's tokens, and the ending's."""
        return tokenizer.encode(self.context), tokenizer.encode(" " + ending)

    def parts(self, ending: str, scored: int) -> int:
        """What `acc_norm` divides the loss by, of an ending of which so many tokens are scored."""
        return scored


class HarnessQuestion(Question):
    """As the lm-evaluation-harness asks it (its task `hellaswag`, version 1): with its topic in
    front and WikiHow's marks taken out; the mean over an ending's letters."""

    @classmethod
    def of(cls, row: dict[str, Any]) -> "HarnessQuestion":
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        return cls(
            strip_markup(context),
            [strip_markup(ending) for ending in row["endings"]],
            int(row["label"]),
        )

    def encode(self, tokenizer: Tokenizer, ending: str) -> tuple[list[int], list[int]]:
        """Encoded in one piece, and parted where the context alone would end."""
        whole = tokenizer.encode(f"{self.context} {ending}")
        context = tokenizer.encode(self.context.rstrip())
        return whole[: len(context)], whole[len(context) :]

    def parts(self, ending: str, scored: int) -> int:
        return len(ending)


def strip_markup(text: str) -> str:
    """Without the marks in brackets that WikiHow's part of the questions has."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


@dataclass
class HellaswagResult:
    """What was answered to each question, by the sum and by the mean of the losses."""

    labels: list[int]
    answers: list[int]
    answers_norm: list[int]

    @property
    def acc(self) -> float:
        return share_of(self.answers, self.labels)

    @property
    def acc_norm(self) -> float:
        return share_of(self.answers_norm, self.labels)

    @property
    def standard_error(self) -> float:
        """Of acc_norm, binomial."""
        return math.sqrt(self.acc_norm * (1 - self.acc_norm) / len(self.labels))

    def figures(self) -> dict[str, float]:
        names = ("acc", "acc_norm", "standard_error")
        return {"n": len(self.labels), **{name: getattr(self, name) for name in names}}


def share_of(answers: list[int], labels: list[int]) -> float:
    """The share of right answers."""
    return sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels)


def read_questions(
    config: HellaswagConfig, folder: Path, style: type[Question] = Question
) -> list[Question]:
    """The questions of `hellaswag.path`, or of the official file, fetched once into `folder`.

    Raises UserError for a file that cannot be read or is not HellaSwag's.
    """
    questions, path = [], config.path
    try:
        path = Path(path).expanduser() if path else official_file(folder)
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if config.rows and len(questions) == config.rows:
                    break
                questions.append(
                    parse_question(line, f"hellaswag.path={path}, line {number}", style)
                )
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        where = f"hellaswag.path={path}" if path else f"corpus_root: {folder}"
        raise UserError(f"{where}: {reason}") from None
    if not questions:
        raise UserError(f"hellaswag.path={path}: holds no question")
    return questions


def official_file(folder: Path) -> Path:
    otherwise = (
        "name a copy with hellaswag.path=FILE, or leave hellaswag out (of train.py: "
        "'eval_before=[]' 'eval_after=[perplexity]')"
    )
    try:
        return download_file(URL, SHA256, folder / "hellaswag_val.jsonl", otherwise)
    except UserError as error:
        raise UserError(f"hellaswag: {error}") from None


def parse_question(line: str, place: str, style: type[Question]) -> Question:
    try:
        question = style.of(json.loads(line))
        texts = [question.context, *question.endings]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("context and endings are no text")
        if len(texts) != 5 or not 0 <= question.label < 4:
            raise ValueError("not four endings, one of them right")
        return question
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: is no HellaSwag question ({error!r:.80})") from None


@dataclass
class EndingSequence:
    """One ending after its context."""

    number: int  # of the ending, over all questions
    ids: list[int]
    begin: int  # the first of the ending's tokens
    parts: int  # that the mean is of


def sequences(questions: list[Question], tokenizer: Tokenizer, window: int) -> list[EndingSequence]:
    """Four sequences a question, context and ending, cut at the left to what the model can see.

    Raises UserError for text that the vocabulary cannot spell.
    """
    made = []
    for question in questions:
        for ending in question.endings:
            context, tokens = question.encode(tokenizer, ending)
            ids = [*(context or [tokenizer.eot]), *tokens][-(window + 1) :]
            begin = max(1, len(ids) - len(tokens))
            parts = question.parts(ending, len(ids) - begin)
            made.append(EndingSequence(len(made), ids, begin, max(1, parts)))
    return made


@torch.inference_mode()
def answer_questions(
    net: GPT, tokenizer: Tokenizer, questions: list[Question], precision: str, batch_size: int
) -> HellaswagResult:
    """Answers all questions, dropout off, on the device where the net is."""
    todo = sequences(questions, tokenizer, net.config.window)
    todo.sort(key=lambda sequence: len(sequence.ids))  # little padding, the same batches each time
    sums, means = torch.zeros(len(todo)), torch.zeros(len(todo))
    was_training = net.training
    net.eval()
    with tqdm(total=len(todo), desc="hellaswag", unit=" endings", disable=None, leave=False) as bar:
        for batch in batches(todo, batch_size):
            nats_B = losses(net, batch, precision)
            for sequence, nats in zip(batch, nats_B, strict=True):
                sums[sequence.number], means[sequence.number] = nats, nats / sequence.parts
            bar.update(len(batch))
    net.train(was_training)
    answers, answers_norm = (x.view(-1, 4).argmin(dim=1).tolist() for x in (sums, means))
    return HellaswagResult([question.label for question in questions], answers, answers_norm)


def batches(todo: list[EndingSequence], size: int) -> Iterator[list[EndingSequence]]:
    for first in range(0, len(todo), size):
        yield todo[first : first + size]


def losses(net: GPT, batch: list[EndingSequence], precision: str) -> Tensor:
    """Nats of each sequence's ending, (B,). The head reads the endings' places alone."""
    device = next(net.parameters()).device
    longest = max(len(sequence.ids) for sequence in batch)
    ids_BxT = torch.zeros(len(batch), longest, dtype=torch.long)
    ending_BxT = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, each in enumerate(batch):
        ids_BxT[row, : len(each.ids)] = torch.tensor(each.ids)
        ending_BxT[row, each.begin : len(each.ids)] = True
    ids_BxT, ending_BxT = ids_BxT.to(device), ending_BxT.to(device)
    with autocast(precision, device.type):
        hidden_BxTxD = net.hidden(ids_BxT[:, :-1])
        logits_NxV = net.head(hidden_BxTxD[ending_BxT[:, 1:]])
    nats_N = F.cross_entropy(logits_NxV.float(), ids_BxT[ending_BxT], reduction="none")
    nats_BxT = torch.zeros(ending_BxT.shape, device=device).masked_scatter(ending_BxT, nats_N)
    return nats_BxT.sum(dim=1).cpu()
