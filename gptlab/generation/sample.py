"""From tokens to text as they come: whole characters, and nothing that may have to be unsaid."""

import codecs
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gptlab.data.tokenizer import Tokenizer


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


@dataclass
class Sample:
    """A text that is being written.

    `text` is the continuation as far as it is certain: while the sample goes on, what may be the
    beginning of a stop text is held back.
    """

    stream: TextStream
    tokens: list[int]  # the prompt's and those written
    prompt: int  # how many are the prompt's
    stop: Sequence[str] = ()
    text: str = ""
    held: str = ""
    logprobs: list[float] = field(default_factory=list)  # of the tokens written, where asked for
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)  # likewise: the ids that
    # were likeliest where each token stands, with their log-probabilities
    found: float = 0.0  # in a beam search, the log-probability after penalties
    ended: str | None = None  # end_of_text | stop | length | interrupted

    @property
    def written(self) -> list[int]:
        return self.tokens[self.prompt :]

    def add(self, token: int) -> None:
        """The next token; ends the sample where a stop text is complete, which is cut off."""
        self.tokens.append(token)
        self.held += self.stream.add(token)
        found = [at for stop in self.stop if (at := self.held.find(stop)) >= 0]
        if found:
            self.held = self.held[: min(found)]
            self.end("stop")
            return
        certain = len(self.held) - self.doubtful()
        self.text, self.held = self.text + self.held[:certain], self.held[certain:]

    def doubtful(self) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        longest = max(map(len, self.stop), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.stop):
                return length
        return 0

    def end(self, why: str) -> None:
        """Why it ends: `end_of_text`, `stop`, `length` or `interrupted`."""
        self.ended = why
        self.text += self.held + (self.stream.end() if why != "stop" else "")
        self.held = ""

    def branch(self) -> "Sample":
        """One that goes on from here by itself."""
        stream = copy.deepcopy(self.stream, {id(self.stream.tokenizer): self.stream.tokenizer})
        return replace(self, stream=stream, tokens=[*self.tokens], logprobs=[*self.logprobs])

    @property
    def likelihood(self) -> float:
        """The mean log-probability of its tokens, end-of-text included where it was written."""
        return sum(self.logprobs) / max(1, len(self.logprobs))
