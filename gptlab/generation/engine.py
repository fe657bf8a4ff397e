"""Writing with a model: token by token, several samples at once."""

import codecs
from collections.abc import Iterator

import torch
from torch import Tensor

from gptlab.config import SamplingConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import UserError
from gptlab.generation.sampling import probabilities
from gptlab.model.gpt import GPT
from gptlab.seeding import derive


def prompt_ids(tokenizer: Tokenizer, prompt: str, eot_first: bool) -> list[int]:
    """The ids a text begins with; without any prompt, end-of-text, after which a text begins.

    Raises UserError for characters that the vocabulary lacks.
    """
    ids = tokenizer.encode(prompt)
    return [tokenizer.eot, *ids] if eot_first or not ids else ids


def sample_prompt(config: TrainConfig, corpus: Corpus) -> list[int]:
    """What a run's samples begin with: its prompt, or the first ten tokens held out."""
    if config.prompt is None:
        eot = corpus.tokenizer.eot
        ids = [token for token in corpus.tokens("valid")[:10].tolist() if token != eot]
        return [eot, *ids] if config.data.eot_first or not ids else ids
    return prompt_ids(corpus.tokenizer, config.prompt, config.data.eot_first)


@torch.inference_mode()
def generate(
    net: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    sampling: SamplingConfig,
    n: int = 1,
    max_new_tokens: int = 100,
    seed: int = 0,
) -> Iterator[list[int | None]]:
    """Yields the next token of each of the n samples, None for one that has ended.

    A sample ends at end-of-text, which is not yielded. Each draws from a generator of its own,
    so sample i is the same text in whatever company it is written. Where the text outgrows the
    window, the model goes on from its last tokens. Raises UserError for a model
    that diverged.
    """
    device = next(net.parameters()).device
    draws = [torch.Generator().manual_seed(derive(seed, sample)) for sample in range(n)]
    ids_BxT = torch.tensor([prompt] * n, device=device)
    ended = [False] * n
    was_training = net.training
    net.eval()
    try:
        for _ in range(max_new_tokens):
            hidden_BxTxD = net.hidden(ids_BxT[:, -net.config.window :])
            logits_BxV = net.head(hidden_BxTxD[:, -1])
            logits_BxV[:, tokenizer.vocab_size :] = float("-inf")  # ids that only pad the table
            probabilities_BxV = probabilities(logits_BxV, sampling)
            if not probabilities_BxV.isfinite().all():
                raise UserError("the model's logits are not finite: its training diverged")
            chosen = draw(probabilities_BxV, draws)
            ended = [e or token == tokenizer.eot for e, token in zip(ended, chosen, strict=True)]
            if all(ended):
                return
            yield [None if e else token for e, token in zip(ended, chosen, strict=True)]
            ids_BxT = torch.cat((ids_BxT, torch.tensor(chosen, device=device)[:, None]), dim=1)
    finally:
        net.train(was_training)


def draw(probabilities_BxV: Tensor, draws: list[torch.Generator]) -> list[int]:
    """One token a row, each by its own generator, on the CPU for the same text on any device."""
    rows = probabilities_BxV.cpu()
    return [
        int(torch.multinomial(row, 1, generator=generator))
        for row, generator in zip(rows, draws, strict=True)
    ]


class TextStream:
    """Tokens to text as they come, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def end(self) -> str:
        """What is left: half a character becomes U+FFFD."""
        return self.decoder.decode(b"", final=True)


def write(
    net: GPT,
    tokenizer: Tokenizer,
    prompt: list[int],
    sampling: SamplingConfig,
    n: int = 1,
    max_new_tokens: int = 100,
    seed: int = 0,
) -> list[str]:
    """The n continuations as text, without the prompt."""
    streams = [TextStream(tokenizer) for _ in range(n)]
    texts = [""] * n
    for tokens in generate(net, tokenizer, prompt, sampling, n, max_new_tokens, seed):
        for sample, token in enumerate(tokens):
            if token is not None:
                texts[sample] += streams[sample].add(token)
    return [text + stream.end() for text, stream in zip(texts, streams, strict=True)]
