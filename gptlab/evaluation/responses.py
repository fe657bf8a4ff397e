"""Compare generated responses to the expected ones of the test instructions."""

import json
import re

from torchmetrics.functional.text import rouge_score
from tqdm import tqdm

from gptlab.config.schema import EvaluateConfig, SamplingConfig, TrainConfig
from gptlab.evaluation.eval_context import EvalContext, Results, named_results
from gptlab.utils.errors import UserError

RESPONSES_FILE = "responses.json"  # in a run folder
SHORT_ANSWER = 5  # words; only answers this short are expected to match exactly


def evaluate_responses(context: EvalContext) -> Results:
    """Generate greedy responses to all test instructions; writes responses.json."""
    corpus, greedy = context.corpus, SamplingConfig(temperature=0.0)
    records = json.loads((corpus.folder / "test.json").read_text(encoding="utf-8"))
    lengths, responses = corpus.prompt_lengths("test"), []
    bar = tqdm(corpus.documents("test"), "responses", len(lengths), disable=None, leave=False)
    for tokens, length in zip(bar, lengths, strict=True):
        (sample,) = context.generate(context.prompt_start + tokens[:length], sampling=greedy)
        responses.append(sample.text.strip())
    if context.output_dir:
        rows = [r | {"response": text} for r, text in zip(records, responses, strict=True)]
        content = json.dumps(rows, ensure_ascii=False, indent=1)
        (context.output_dir / RESPONSES_FILE).write_text(content, encoding="utf-8")
    expected = [record["output"] for record in records]
    return named_results("responses", score_responses(expected, responses))


def check_responses_config(config: TrainConfig | EvaluateConfig) -> None:
    """Raise UserError if the corpus will have no test instructions."""
    if not config.data.test_split:
        raise UserError("responses: needs test instructions; set data.test_split=0.1")


def check_responses(context: EvalContext) -> None:
    """Raise UserError if the corpus has no test instructions."""
    if "test" not in context.corpus.splits:
        folder = context.corpus.folder
        raise UserError(f"responses: {folder} has no test instructions; set data.test_split=0.1")


def score_responses(expected: list[str], responses: list[str]) -> dict[str, float | None]:
    """Score with ROUGE-L (Lin, 2004) as an F-measure, and by exact match of short answers."""
    pairs = zip(expected, responses, strict=True)
    short = [pair for pair in pairs if len(pair[0].split()) <= SHORT_ANSWER]
    right = sum(normalize_answer(answer) == normalize_answer(text) for answer, text in short)
    return {
        "n": len(expected),
        "rouge_l": rouge_l(expected, responses),
        "rouge_l_shuffled": rouge_l([*expected[1:], *expected[:1]], responses),  # a floor
        "exact": right / len(short) if short else None,
        "exact_n": len(short),
    }


def rouge_l(expected: list[str], responses: list[str]) -> float:
    return float(rouge_score(responses, expected, rouge_keys="rougeL")["rougeL_fmeasure"])


def normalize_answer(text: str) -> str:
    """Ignore case, spacing, and punctuation at both ends."""
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split()))
