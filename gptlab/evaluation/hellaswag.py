"""HellaSwag: which of four endings does the model find likeliest?

Zellers and others (2019), "HellaSwag: Can a Machine Really Finish Your Sentence?",
arXiv:1905.07830. Scored as completions: of each ending, after its context, the loss of its own
tokens, as a sum (`acc`) and as a mean a token (`acc_norm`). Guessing is right in 25 %.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from gptlab.config import HellaswagConfig
from gptlab.data.fetch import fetch
from gptlab.data.tokenizer import Tokenizer
from gptlab.device import autocast
from gptlab.errors import UserError
from gptlab.model.gpt import GPT

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
SHA256 = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"


@dataclass
class Question:
    context: str
    endings: list[str]
    label: int  # the right ending's place


@dataclass
class Result:
    """How many questions were answered rightly, by the sum and by the mean of the losses."""

    questions: int
    right: int
    right_norm: int

    @property
    def acc(self) -> float:
        return self.right / self.questions

    @property
    def acc_norm(self) -> float:
        return self.right_norm / self.questions

    @property
    def standard_error(self) -> float:
        """Of acc_norm, binomial."""
        return math.sqrt(self.acc_norm * (1 - self.acc_norm) / self.questions)

    def figures(self) -> dict[str, float]:
        names = ("acc", "acc_norm", "standard_error")
        return {"n": self.questions, **{name: getattr(self, name) for name in names}}


def read(config: HellaswagConfig, folder: Path) -> list[Question]:
    """The questions of `hellaswag.path`, or of the official file, fetched once into `folder`.

    Raises UserError for a file that cannot be read or is not HellaSwag's.
    """
    questions, path = [], config.path
    try:
        path = Path(path).expanduser() if path else official(folder)
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if config.rows and len(questions) == config.rows:
                    break
                questions.append(parse(line, f"hellaswag.path={path}, line {number}"))
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        where = f"hellaswag.path={path}" if path else f"corpus_root: {folder}"
        raise UserError(f"{where}: {reason}") from None
    if not questions:
        raise UserError(f"hellaswag.path={path}: holds no question")
    return questions


def official(folder: Path) -> Path:
    otherwise = (
        "name a copy with hellaswag.path=FILE, or leave hellaswag out: 'before=[]' "
        "'after=[perplexity]'"
    )
    try:
        return fetch(URL, SHA256, folder / "hellaswag_val.jsonl", otherwise)
    except UserError as error:
        raise UserError(f"hellaswag: {error}") from None


def parse(line: str, place: str) -> Question:
    try:
        row = json.loads(line)
        question = Question(row["ctx"], list(row["endings"]), int(row["label"]))
        texts = [question.context, *question.endings]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("context and endings are no text")
        if len(texts) != 5 or not 0 <= question.label < 4:
            raise ValueError("not four endings, one of them right")
        return question
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: is no HellaSwag question ({error!r:.80})") from None


Sequence = tuple[int, list[int], int]  # number of the ending, ids, where the ending begins


def sequences(questions: list[Question], tokenizer: Tokenizer, window: int) -> list[Sequence]:
    """Four sequences a question, context and ending, cut at the left to what the model can see.

    Raises UserError for text that the vocabulary cannot spell.
    """
    made = []
    for question in questions:
        context = tokenizer.encode(question.context) or [tokenizer.eot]
        for ending in question.endings:
            tokens = tokenizer.encode(" " + ending)
            ids = [*context, *tokens][-(window + 1) :]
            made.append((len(made), ids, max(1, len(ids) - len(tokens))))
    return made


@torch.inference_mode()
def score(
    net: GPT, tokenizer: Tokenizer, questions: list[Question], precision: str, batch_size: int
) -> Result:
    """Answers all questions, dropout off, on the device where the net is."""
    todo = sequences(questions, tokenizer, net.config.window)
    todo.sort(key=lambda sequence: len(sequence[1]))  # little padding, the same batches every time
    sums, means = torch.zeros(len(todo)), torch.zeros(len(todo))
    was_training = net.training
    net.eval()
    with tqdm(total=len(todo), desc="hellaswag", unit=" endings", disable=None, leave=False) as bar:
        for batch in batches(todo, batch_size):
            nats_B = losses(net, batch, precision)
            for (number, ids, begin), nats in zip(batch, nats_B, strict=True):
                sums[number], means[number] = nats, nats / (len(ids) - begin)
            bar.update(len(batch))
    net.train(was_training)
    labels = torch.tensor([question.label for question in questions])
    right, right_norm = (
        int((nats.view(-1, 4).argmin(dim=1) == labels).sum()) for nats in (sums, means)
    )
    return Result(len(questions), right, right_norm)


def batches(todo: list[Sequence], size: int) -> Iterator[list[Sequence]]:
    for first in range(0, len(todo), size):
        yield todo[first : first + size]


def losses(net: GPT, batch: list[Sequence], precision: str) -> Tensor:
    """Nats of each sequence's ending, (B,). The head reads the endings' places alone."""
    device = next(net.parameters()).device
    longest = max(len(ids) for _, ids, _ in batch)
    ids_BxT = torch.zeros(len(batch), longest, dtype=torch.long)
    ending_BxT = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (_, ids, begin) in enumerate(batch):
        ids_BxT[row, : len(ids)] = torch.tensor(ids)
        ending_BxT[row, begin : len(ids)] = True
    ids_BxT, ending_BxT = ids_BxT.to(device), ending_BxT.to(device)
    with autocast(precision, device.type):
        hidden_BxTxD = net.hidden(ids_BxT[:, :-1])
        logits_NxV = net.head(hidden_BxTxD[ending_BxT[:, 1:]])
    nats_N = F.cross_entropy(logits_NxV.float(), ids_BxT[ending_BxT], reduction="none")
    nats_BxT = torch.zeros(ending_BxT.shape, device=device).masked_scatter(ending_BxT, nats_N)
    return nats_BxT.sum(dim=1).cpu()
