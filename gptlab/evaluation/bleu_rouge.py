"""How much do continuations share with the real ones? BLEU and ROUGE, with what they are worth.

Alone such figures say little: texts of one kind share words whatever they say. So beside them stand
a floor, the same continuations against the endings of other texts, and what a real text earns, the
ending of another text in place of the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torchmetrics.functional.text import bleu_score, rouge_score


@dataclass
class Overlap:
    """BLEU (Papineni and others, 2002), ROUGE-1 and ROUGE-L (Lin, 2004), as F-measures, 0 to 1."""

    bleu: float
    rouge_1: float
    rouge_l: float


def bleu_rouge(written: Sequence[str], real: Sequence[str]) -> Overlap:
    rouge = rouge_score(list(written), list(real), rouge_keys=("rouge1", "rougeL"))
    return Overlap(
        bleu=float(bleu_score(list(written), [[text] for text in real])),
        rouge_1=float(rouge["rouge1_fmeasure"]),
        rouge_l=float(rouge["rougeL_fmeasure"]),
    )


def compare_continuations(written: Sequence[str], real: Sequence[str]) -> dict[str, Overlap]:
    """The continuations against the real ones; the floor; and other real endings."""
    others = [*real[1:], *real[:1]]
    return {
        "written": bleu_rouge(written, real),
        "shuffled": bleu_rouge(written, others),
        "other_real": bleu_rouge(others, real),
    }
