"""Compare every sampling preset with real text: `python -m gptlab.report.sampling_study RUN`.

The model continues held-out documents with each preset of conf/sampling, and its texts are measured
like the real continuations. A good preset is close to the real text in all columns. Far fewer nats
and far more repetition mean dull text; the opposite means incoherent text.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
import yaml

from gptlab.config.keys import CONF_DIR
from gptlab.config.schema import WEIGHT_DTYPES, SamplingConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.evaluation.text_quality import distinct_share, ngrams
from gptlab.generation.engine import generate_samples
from gptlab.generation.quantize import quantize_linears
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import LoadedModel, load_checkpoint
from gptlab.utils import run_dir
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError, exit_on_error
from gptlab.utils.plugins import trust

PROMPT_TOKENS = 8
REAL_TEXT = "real text"
Continuation = tuple[list[int], list[float]]  # tokens after the prompt, their log-probabilities


def main() -> None:
    program = "python -m gptlab.report.sampling_study"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("run", nargs="?", default="latest", help="run folder (default: latest)")
    parser.add_argument("--num-documents", type=int, default=50, help="documents to continue")
    parser.add_argument("--num-tokens", type=int, default=100, help="tokens per document")
    parser.add_argument("--weight-dtype", default="float32", choices=WEIGHT_DTYPES)
    parser.add_argument("--plugins", nargs="*", default=[], help="packages that the run may use")
    with exit_on_error("report"):
        arguments = parser.parse_args()
        if min(arguments.num_documents, arguments.num_tokens) < 1:
            raise UserError("--num-documents and --num-tokens must be at least 1")
        trust(arguments.plugins)
        model = load_checkpoint(run_dir.find_checkpoint(arguments.run, "runs", ""))
        quantize_linears(model.net, arguments.weight_dtype)
        for line in compare_sampling(model, arguments.num_documents, arguments.num_tokens):
            print(line)


def compare_sampling(model: LoadedModel, num_documents: int, num_tokens: int) -> list[str]:
    """Return a table: one line for real text and one per preset, all over equally many words."""
    if model.net.config.n_classes:
        raise UserError(f"{model.path}: is a classifier and cannot generate text")
    num_tokens = min(num_tokens, model.net.config.window - PROMPT_TOKENS)
    if num_tokens < 1:
        raise UserError(f"{model.path}: its context is too short for a prompt of {PROMPT_TOKENS}")
    documents = held_out_documents(model, num_documents, num_tokens)
    continuations = {REAL_TEXT: [score_real_text(model, ids) for ids in documents]}
    for file in sorted((CONF_DIR / "sampling").glob("*.yaml")):
        sampling = SamplingConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
        continuations[file.stem] = [
            generate_continuation(model, ids, num_tokens, sampling, seed)
            for seed, ids in enumerate(documents)
        ]
    words = {
        name: [decode(model.tokenizer, ids).split() for ids, _ in texts]
        for name, texts in continuations.items()
    }
    num_words = min(sum(map(len, texts)) for texts in words.values())
    heading = ("nats per token", "repeated", "distinct-2", "distinct-3")
    lines = ["{:<13}{:>15}{:>10}{:>12}{:>12}".format("", *heading)]
    for name, pairs in continuations.items():
        nats = [-logprob for _, logprobs in pairs for logprob in logprobs]
        repeats, total = map(sum, zip(*map(count_repeats, words[name]), strict=True))
        pooled = [word for text in words[name] for word in text][:num_words]
        distinct_2, distinct_3 = (distinct_share([ngrams(pooled, n)]) for n in (2, 3))
        lines.append(
            f"{name:<13}{sum(nats) / len(nats):>15.3f}{repeats / max(1, total):>10.1%}"
            f"{distinct_2:>12.3f}{distinct_3:>12.3f}"
        )
    return lines


def held_out_documents(model: LoadedModel, count: int, num_tokens: int) -> list[list[int]]:
    """Return the first tokens of up to `count` validation documents that are long enough."""
    if "corpus" not in model.metadata:
        raise UserError(f"{model.path}: does not name the corpus it was trained on")
    corpus = Corpus(Path(model.config["corpus_root"]).expanduser() / model.metadata["corpus"])
    length = PROMPT_TOKENS + num_tokens - model.eot_first
    long_enough = (each[:length] for each in corpus.documents("valid") if len(each) >= length)
    documents = list(islice(long_enough, count))
    if not documents:
        raise UserError(f"no validation document has {plural(length, 'token')}; lower --num-tokens")
    return [[model.tokenizer.eot, *text] if model.eot_first else text for text in documents]


@torch.inference_mode()
def score_real_text(model: LoadedModel, ids: list[int]) -> Continuation:
    logits = model.net(torch.tensor([ids[:-1]]))[0, :, : model.tokenizer.vocab_size]
    logprobs = logits.float().log_softmax(dim=-1)
    continuation = ids[PROMPT_TOKENS:]
    positions = torch.arange(PROMPT_TOKENS - 1, len(ids) - 1)
    return continuation, logprobs[positions, torch.tensor(continuation)].tolist()


def generate_continuation(
    model: LoadedModel, ids: list[int], num_tokens: int, sampling: SamplingConfig, seed: int
) -> Continuation:
    prompt = ids[:PROMPT_TOKENS]
    request = GenerationRequest(
        model.net, model.tokenizer, prompt, sampling, 1, num_tokens, seed, logprobs=True
    )
    (sample,) = generate_samples(request)
    return sample.new_tokens, sample.logprobs


def count_repeats(words: list[str]) -> tuple[int, int]:
    """Return (number of 4-grams that occurred earlier in the text, number of 4-grams)."""
    grams = ngrams(words, 4)
    return len(grams) - len(set(grams)), len(grams)


if __name__ == "__main__":
    main()
