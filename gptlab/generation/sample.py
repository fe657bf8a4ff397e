"""Define generation requests and the samples that grow from them."""

import codecs
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gptlab.config.schema import SamplingConfig
from gptlab.data.tokenizer import Tokenizer
from gptlab.model.gpt import GPT


class StreamingDecoder:
    """Decode tokens to text one by one; hold back the bytes of an incomplete character."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def end(self) -> str:
        """Return the remaining text; an incomplete character becomes U+FFFD."""
        return self.decoder.decode(b"", final=True)


@dataclass
class Sample:
    """A generated text and its tokens.

    While the sample is unfinished, `text` excludes trailing characters that may turn out to be the
    start of a stop string; they wait in `pending`.
    """

    stream: StreamingDecoder
    tokens: list[int]  # prompt and new tokens, without end-of-text at the end
    prompt_length: int  # tokens of the prompt
    stop: Sequence[str] = ()
    text: str = ""  # the new text
    pending: str = ""
    logprobs: list[float] = field(default_factory=list)  # one per new token, end-of-text included
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)  # (id, logprob) pairs
    search_logprob: float = 0.0  # beam search: total log-probability after penalties
    finish_reason: str | None = None  # end_of_text | stop | length | interrupted; None: unfinished

    @property
    def new_tokens(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def predicted_tokens(self) -> list[int]:
        """The new tokens, with end-of-text if it was generated: one for each of `logprobs`."""
        eot = [self.stream.tokenizer.eot] if self.finish_reason == "end_of_text" else []
        return self.new_tokens + eot

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of the new tokens, end-of-text included."""
        return sum(self.logprobs) / max(1, len(self.logprobs))

    def append(self, token: int, eot: int, is_last: bool) -> None:
        """Append a token; finish at end-of-text, a stop string, or the length limit (`is_last`)."""
        if token == eot:
            self.finish("end_of_text")
            return
        self.tokens.append(token)
        self.pending += self.stream.add(token)
        stops = [at for stop in self.stop if (at := self.pending.find(stop)) >= 0]
        if stops:
            self.pending = self.pending[: min(stops)]
            self.finish("stop")
            return
        certain = len(self.pending) - self.partial_stop_length()
        self.text, self.pending = self.text + self.pending[:certain], self.pending[certain:]
        if is_last:
            self.finish("length")

    def partial_stop_length(self) -> int:
        """Return how many trailing characters of `pending` may be the start of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        for length in range(min(longest, len(self.pending)), 0, -1):
            if any(stop.startswith(self.pending[-length:]) for stop in self.stop):
                return length
        return 0

    def finish(self, reason: str) -> None:
        self.finish_reason = reason
        self.text += self.pending + (self.stream.end() if reason != "stop" else "")
        self.pending = ""

    def fork(self) -> "Sample":
        """Return a copy that grows independently."""
        stream = copy.deepcopy(self.stream, {id(self.stream.tokenizer): self.stream.tokenizer})
        return replace(self, stream=stream, tokens=[*self.tokens], logprobs=[*self.logprobs])


@dataclass(frozen=True)
class GenerationRequest:
    """The model, the prompt, and how to generate from it.

    Sampling with one seed gives the same text for any `num_samples` and with or without the cache.
    Beam search ignores the seed and always records log-probabilities.
    """

    net: GPT
    tokenizer: Tokenizer
    prompt_ids: Sequence[int]
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    num_samples: int = 1
    max_new_tokens: int = 100
    seed: int = 0
    stop: Sequence[str] = ()  # strings that end a sample; they are cut off
    logprobs: bool = False  # record each token's log-probability before any sampling setting
    top_logprobs: int = 0  # with `logprobs`: also record this many most likely tokens per position
    use_cache: bool = True  # False: recompute the whole window for each token

    def new_sample(self) -> Sample:
        stream = StreamingDecoder(self.tokenizer)
        return Sample(stream, list(self.prompt_ids), len(self.prompt_ids), self.stop)
