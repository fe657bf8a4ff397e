"""Every way of sampling beside real text: `python -m gptlab.report.sampling_study RUN`.

A model goes on from the first tokens of held-out documents, in each way of conf/sampling, and its
texts are measured as the documents' own continuations are. A good way is near the real line in all
columns: far below in nats and far above in repetition it drones, the other way round it babbles.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from gptlab.config.cli import CONF_DIR
from gptlab.config.schema import WEIGHT_DTYPES, SamplingConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.generation.engine import generate_samples
from gptlab.generation.quantize import quantize_linears
from gptlab.generation.sample import GenerationRequest
from gptlab.model import checkpoint
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError, exit_on_error

PROMPT = 8  # tokens
Text = tuple[list[int], list[float]]  # the tokens after the prompt, and their log-probabilities


def sampling_ways() -> dict[str, SamplingConfig]:
    files = sorted((CONF_DIR / "sampling").glob("*.yaml"))
    return {file.stem: SamplingConfig(**yaml.safe_load(file.read_text())) for file in files}


def real_texts(model: LoadedModel, texts: int, tokens: int) -> list[list[int]]:
    """The first tokens of so many held-out documents that are long enough."""
    if "corpus" not in model.metadata:
        raise UserError(f"{model.path}: does not say which corpus it was trained on")
    corpus = Corpus(Path(model.config["corpus_root"]).expanduser() / model.metadata["corpus"])
    held_out, ends = corpus.tokens("valid"), corpus.ends("valid")
    places = zip([0, *ends[:-1]], ends, strict=True)
    length = PROMPT + tokens - model.eot_first
    found = [held_out[b : b + length].tolist() for b, e in places if e - b > length][:texts]
    if not found:
        raise UserError(f"no held-out document has more than {length} tokens; see --tokens")
    return [[model.tokenizer.eot, *text] if model.eot_first else text for text in found]


@torch.inference_mode()
def as_the_model_sees(model: LoadedModel, ids: list[int]) -> Text:
    logits = model.net(torch.tensor([ids[:-1]]))[0, :, : model.tokenizer.vocab_size]
    logprobs = logits.float().log_softmax(dim=-1)
    after = ids[PROMPT:]
    own = logprobs[torch.arange(PROMPT - 1, len(ids) - 1), torch.tensor(after)]
    return after, own.tolist()


def writer(
    model: LoadedModel, tokens: int, sampling: SamplingConfig
) -> Callable[[int, list], Text]:
    def run(number: int, ids: list[int]) -> Text:
        request = GenerationRequest(
            *(model.net, model.tokenizer, ids[:PROMPT], sampling),
            max_new_tokens=tokens,
            seed=number,
            logprobs=True,
        )
        (sample,) = generate_samples(request)
        return sample.new_tokens, sample.logprobs

    return run


def repeated(words: list[str], n: int = 4) -> tuple[int, int]:
    """How many runs of n words were in the text before, and of how many."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(grams) - len(set(grams)), len(grams)


def distinct(words: list[str], n: int) -> float:
    """The share of runs of n words that are different. Li and others (2015), arXiv:1510.03055."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def compare_sampling(model: LoadedModel, texts: int, tokens: int) -> list[str]:
    """A line for real text and one for each way, all over equally many words."""
    tokens = min(tokens, model.net.config.window - PROMPT)
    if tokens < 1:
        raise UserError(f"{model.path}: sees too few tokens for a beginning of {PROMPT}")
    beginnings = real_texts(model, texts, tokens)
    written = {"real text": [as_the_model_sees(model, ids) for ids in beginnings]}
    for name, sampling in sampling_ways().items():
        run = writer(model, tokens, sampling)
        written[name] = [run(number, ids) for number, ids in enumerate(beginnings)]
    words = {
        name: [decode(model.tokenizer, tokens).split() for tokens, _ in found]
        for name, found in written.items()
    }
    most = min(sum(map(len, found)) for found in words.values())
    lines = [f"{'':<13}{'nats a token':>13}{'repeated':>10}{'distinct-2':>12}{'distinct-3':>12}"]
    for name, found in written.items():
        nats = [-logprob for _, logprobs in found for logprob in logprobs]
        again, grams = map(sum, zip(*(repeated(text) for text in words[name]), strict=True))
        pooled = [word for text in words[name] for word in text][:most]
        lines.append(
            f"{name:<13}{sum(nats) / len(nats):>13.3f}{again / max(1, grams):>10.1%}"
            f"{distinct(pooled, 2):>12.3f}{distinct(pooled, 3):>12.3f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gptlab.report.sampling_study", description=__doc__
    )
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=100, help="that are written of each")
    parser.add_argument("--weights", default="float32", choices=WEIGHT_DTYPES)
    wanted = parser.parse_args()
    with exit_on_error("report"):
        if wanted.texts < 1 or wanted.tokens < 1:
            raise UserError("--texts and --tokens: must be at least 1")
        model = checkpoint.load_checkpoint(run_dir.find_checkpoint(wanted.run, "runs"))
        quantize_linears(model.net, wanted.weights)
        for line in compare_sampling(model, wanted.texts, wanted.tokens):
            print(line)


if __name__ == "__main__":
    main()
