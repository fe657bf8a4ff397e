"""How much continuations share with the real ones: BLEU and ROUGE, with a floor and a ceiling.

Texts of one kind share words whatever they say. So the same figures are computed for the generated
continuations against the endings of other documents (a floor), and for the endings of other
documents in place of the generated ones (what a real text scores).
"""

from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from gptlab.data.tokenizer import decode
from gptlab.evaluation.eval_context import EvalContext, Results, named_results


def evaluate_bleu_rouge(context: EvalContext) -> Results:
    """Compare generated second halves of held-out documents to the real ones."""
    samples, endings = context.continue_documents()
    real = [decode(context.tokenizer, ending) for ending in endings]
    results: Results = {"bleu_rouge/n": len(real)}
    for name, scores in compare_continuations([sample.text for sample in samples], real).items():
        results |= named_results(name, scores)
    return results


def compare_continuations(generated: Sequence[str], real: Sequence[str]) -> dict[str, Results]:
    """Score continuations against the real ones, against other texts', and other texts' too."""
    others = [*real[1:], *real[:1]]
    return {
        "bleu_rouge": bleu_rouge(generated, real),
        "bleu_rouge_shuffled": bleu_rouge(generated, others),
        "bleu_rouge_other_real": bleu_rouge(others, real),
    }


def bleu_rouge(generated: Sequence[str], real: Sequence[str]) -> Results:
    """BLEU (Papineni et al., 2002), ROUGE-1 and ROUGE-L (Lin, 2004) as F-measures, 0 to 1."""
    rouge = rouge_score(list(generated), list(real), rouge_keys=("rouge1", "rougeL"))
    return {
        "bleu": float(bleu_score(list(generated), [[text] for text in real])),
        "rouge_1": float(rouge["rouge1_fmeasure"]),
        "rouge_l": float(rouge["rougeL_fmeasure"]),
    }
