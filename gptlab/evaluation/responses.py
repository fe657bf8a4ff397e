"""Responses to instructions beside the expected ones, scored without a network."""

import re
from dataclasses import dataclass

from torchmetrics.functional.text import rouge_score
from tqdm import tqdm

from gptlab.config.schema import SamplingConfig
from gptlab.data.tokenizer import Tokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT

SHORT = 5  # words; only of answers so short is it fair to ask for the very same


@dataclass
class ResponseScores:
    """Of how many responses; ROUGE-L (Lin, 2004) as an F-measure, from 0 to 1."""

    n: int
    rouge_l: float
    rouge_l_shuffled: float  # against the answer to another instruction: a floor
    exact: float | None  # share of the short answers that were given to the letter
    exact_n: int


def generate_responses(
    net: GPT, tokenizer: Tokenizer, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """The likeliest token each time, up to end-of-text."""
    greedy = SamplingConfig(temperature=0.0)
    responses = []
    for prompt in tqdm(prompts, desc="responses", disable=None, leave=False):
        request = GenerationRequest(net, tokenizer, prompt, greedy, max_new_tokens=max_new_tokens)
        (sample,) = generate_samples(request)
        responses.append(sample.text.strip())
    return responses


def score_responses(expected: list[str], responses: list[str]) -> ResponseScores:
    short = [place for place, text in enumerate(expected) if len(text.split()) <= SHORT]
    right = sum(
        normalize_answer(responses[place]) == normalize_answer(expected[place]) for place in short
    )
    return ResponseScores(
        n=len(expected),
        rouge_l=rouge_l(expected, responses),
        rouge_l_shuffled=rouge_l([*expected[1:], *expected[:1]], responses),
        exact=right / len(short) if short else None,
        exact_n=len(short),
    )


def rouge_l(expected: list[str], responses: list[str]) -> float:
    found = rouge_score(responses, expected, rouge_keys="rougeL")
    return float(found["rougeL_fmeasure"])


def normalize_answer(text: str) -> str:
    """What makes two answers the same: neither case, blanks nor marks at the ends."""
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split()))
