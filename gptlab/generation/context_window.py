"""Keep the tokens that the model sees before the next one, with their key-value cache."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.generation.quantize import fast_linears
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from gptlab.utils.errors import UserError


class ContextWindow:
    """The visible tokens of B samples, the same number for each.

    A model sees `net.config.window` = W tokens. When the window is full, its older half is dropped
    and the rest is read again from position 0, as in training, whatever the position encoding. So
    each token depends on the last W/2 to W tokens. Dropping one token at a time would recompute the
    whole window for every token.

    Args:
        prompt_ids: longer prompts are cut to their last W tokens.
        max_tokens: prompt and new tokens together, which bounds the cache's size.
        use_cache: keep keys and values; False recomputes them and gives the same logits.
    """

    def __init__(
        self, net: GPT, prompt_ids: Sequence[int], max_tokens: int, use_cache: bool = True
    ):
        self.net = net
        self.window = net.config.window
        device = next(net.parameters()).device
        self.ids_BxT = torch.tensor([list(prompt_ids[-self.window :])], device=device)
        use_cache = use_cache and not net.config.let_attention_see_the_future
        self.cache = net.make_cache(1, min(max_tokens, self.window)) if use_cache else None

    def logits(self) -> Tensor:
        """Compute the logits for the next token, (B, V)."""
        if self.cache is None:
            hidden_BxTxD = self.net.hidden_states(self.ids_BxT)
        else:
            new_BxT = self.ids_BxT[:, self.cache.length :]
            hidden_BxTxD = self.net.hidden_cached(new_BxT, self.cache)
        return self.net.head(hidden_BxTxD[:, -1])

    def append(self, tokens: list[int]) -> None:
        """Append one token to each sample."""
        if self.ids_BxT.shape[1] == self.window:
            self.ids_BxT = self.ids_BxT[:, self.window - self.window // 2 :]
            if self.cache is not None:
                self.cache.length = 0
        new_Bx1 = torch.tensor(tokens, device=self.ids_BxT.device)[:, None]
        self.ids_BxT = torch.cat((self.ids_BxT, new_Bx1), dim=1)

    def select(self, rows: list[int]) -> None:
        """Replace the samples by samples rows[0], rows[1], …; rows may be dropped or repeated."""
        self.ids_BxT = self.ids_BxT[rows]
        if self.cache is not None:
            self.cache.select(rows)


@contextlib.contextmanager
def open_context(request: GenerationRequest) -> Iterator[ContextWindow]:
    """Switch the model to evaluation mode and fast linear layers, and open its context."""
    net, max_tokens = request.net, len(request.prompt_ids) + request.max_new_tokens
    was_training = net.training
    net.eval()
    try:
        with fast_linears(net):
            yield ContextWindow(net, request.prompt_ids, max_tokens, request.use_cache)
    finally:
        net.train(was_training)


def next_logits(context: ContextWindow, vocab_size: int) -> Tensor:
    """Compute the next token's logits, (B, V), with -inf for ids that only pad the embedding.

    Raises UserError if a logit is not finite.
    """
    logits_BxV = context.logits()
    logits_BxV[:, vocab_size:] = -torch.inf
    if not logits_BxV[:, :vocab_size].isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits_BxV
