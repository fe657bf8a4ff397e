"""Compute BLEU and ROUGE of generated continuations, with a floor and a ceiling.

Texts of one kind share words, whatever their content. The floor compares generated continuations
to endings of other documents; the ceiling compares endings of other documents to the real ones.
"""

from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from gptlab.data.tokenizer import decode
from gptlab.evaluation.eval_context import EvalContext, Results, named_results


def evaluate_bleu_rouge(context: EvalContext) -> Results:
    """Compute BLEU and ROUGE of generated second halves of held-out documents."""
    samples, endings = context.continue_documents()
    real = [decode(context.tokenizer, ending) for ending in endings]
    results: Results = {"bleu_rouge/n": len(real)}
    for name, scores in compare_continuations([sample.text for sample in samples], real).items():
        results |= named_results(name, scores)
    return results


def compare_continuations(generated: Sequence[str], real: Sequence[str]) -> dict[str, Results]:
    """Score generated endings against real ones and other texts', and other texts' against real."""
    others = [*real[1:], *real[:1]]
    return {
        "bleu_rouge": bleu_rouge(generated, real),
        "bleu_rouge_shuffled": bleu_rouge(generated, others),
        "bleu_rouge_other_real": bleu_rouge(others, real),
    }


def bleu_rouge(generated: Sequence[str], real: Sequence[str]) -> Results:
    """Compute BLEU (Papineni et al., 2002) and F-measures of ROUGE-1, ROUGE-L (Lin, 2004)."""
    rouge = rouge_score(list(generated), list(real), rouge_keys=("rouge1", "rougeL"))
    return {
        "bleu": float(bleu_score(list(generated), [[text] for text in real])),
        "rouge_1": float(rouge["rouge1_fmeasure"]),
        "rouge_l": float(rouge["rougeL_fmeasure"]),
    }
