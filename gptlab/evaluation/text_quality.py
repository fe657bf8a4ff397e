"""Measure variety, length and correctness of generated text without a judge."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gptlab.data.prompt_matching import match_prompt
from gptlab.data.tokenizer import decode
from gptlab.data.toy.stories import story_grammar
from gptlab.evaluation.eval_context import EvalContext, Results, named_results
from gptlab.generation.engine import start_text

WORD = re.compile(r"\w[\w'’-]*")
DECODED_TOKENS = 1 << 20  # of the training text, decoded at a time


def evaluate_text_quality(context: EvalContext) -> Results:
    """Generate texts after `prompt` or from nothing; measure these and real ones."""
    tokenizer, count = context.tokenizer, context.num_samples
    # Training skips unknown words of the prompt; an evaluation refuses them by default.
    unknown = getattr(context.config, "unknown", "skip").replace("auto", "error")
    match = match_prompt(tokenizer, context.config.prompt or "", unknown)
    prompt, text = start_text(match.ids, tokenizer.eot, context.eot_first), match.text
    samples = context.generate(prompt, count, context.config.seed, progress="text_quality")
    known = training_words(training_text(context))
    from_grammar = context.data.source == "toy_stories" and context.data.path is None
    log_probability = story_grammar().log_probability if from_grammar else None
    generated = [text + sample.text for sample in samples]
    ended = [sample.finish_reason == "end_of_text" for sample in samples]
    documents = context.corpus.documents("valid", count)
    real = [decode(tokenizer, document) for document in documents]
    quality = measure_text_quality(generated, ended, known, log_probability)
    real_quality = measure_text_quality(real, [True] * len(real), known, log_probability)
    results = named_results("text_quality", asdict(quality))
    return results | named_results("text_quality_held_out", asdict(real_quality))


def training_text(context: EvalContext) -> Iterator[str]:
    """Decode the training text, about a million tokens of whole documents at a time."""
    stream, ends = context.corpus.tokens("train"), context.corpus.document_ends("train")
    begin = 0
    while begin < len(stream):
        later_ends = ends[ends > min(begin + DECODED_TOKENS, int(ends[-1]) - 1)]
        end = int(later_ends[0])
        yield decode(context.tokenizer, stream[begin:end].tolist())
        begin = end


@dataclass
class TextQuality:
    """Statistics of several texts; shares are from 0 to 1."""

    texts: int
    words: float  # mean per text
    ended: float  # share of texts that ended by themselves
    distinct_1: float  # distinct words / words; Li et al. (2015), arXiv:1510.03055
    distinct_2: float  # distinct pairs of words / pairs
    repeated_4: float  # share of 4-grams that occurred earlier in the same text
    unknown_words: float  # share of words that the training text lacks
    grammatical: float | None = None  # share of texts that the corpus's grammar can produce
    nats: float | None = None  # their mean -log probability under the grammar


def measure_text_quality(
    texts: Sequence[str],
    ended: Sequence[bool],
    known: set[str],
    log_probability: Callable[[str], float] | None,
) -> TextQuality:
    """Measure texts; `log_probability` scores a text under the corpus's grammar, if it has one."""
    words = [WORD.findall(text) for text in texts]
    every = [word for each in words for word in each]
    grams = [ngrams(each, 4) for each in words]
    logs = [log_probability(text) for text in texts] if log_probability else []
    finite = [-value for value in logs if np.isfinite(value)]
    return TextQuality(
        texts=len(texts),
        words=mean([len(each) for each in words]),
        ended=mean(ended),
        distinct_1=distinct_share([ngrams(each, 1) for each in words]),
        distinct_2=distinct_share([ngrams(each, 2) for each in words]),
        repeated_4=1 - mean([len(set(each)) for each in grams]) / max(1e-9, mean(map(len, grams))),
        unknown_words=mean([word.casefold() not in known for word in every]),
        grammatical=len(finite) / max(1, len(logs)) if log_probability else None,
        nats=mean(finite) if finite else None,
    )


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def distinct_share(grams: list[list[tuple[str, ...]]]) -> float:
    """Divide distinct by all n-grams of all texts: a repeated story counts as repetition."""
    every = [gram for each in grams for gram in each]
    return len(set(every)) / max(1, len(every))


def mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / max(1, len(listed))


def training_words(texts: Iterable[str]) -> set[str]:
    """Collect the words of a text, ignoring case."""
    known: set[str] = set()
    for text in texts:
        known.update(word.casefold() for word in WORD.findall(text))
    return known
