"""What a model reads before the next token: the end of each sample's text, and its cache."""

import torch
from torch import Tensor

from gptlab.model.gpt import GPT


class ContextWindow:
    """The tokens of B samples that the model sees, all equally many.

    A model sees `net.config.window` tokens, W. When they are full, the older half is forgotten and
    the rest read anew from position 0, as texts were in training, whatever kind of positions the
    model has: so each token follows from the last W/2 to W, and what stood before is lost. Moving
    on by one token instead would read the whole window for every token.

    Args:
        prompt: token ids; of one that is longer than the window its end.
        most: tokens that will ever be there, for the cache's size.
        cached: keep keys and values; or read all tokens again each time, which gives the same.
    """

    def __init__(self, net: GPT, prompt: list[int], most: int, cached: bool = True):
        self.net = net
        self.window = net.config.window
        device = next(net.parameters()).device
        self.ids_BxT = torch.tensor([prompt[-self.window :]], device=device)
        cached = cached and not net.config.let_attention_see_the_future
        self.cache = net.make_cache(1, min(most, self.window)) if cached else None

    def logits(self) -> Tensor:
        """(B, V), for the token after."""
        if self.cache is None:
            hidden_BxTxD = self.net.hidden(self.ids_BxT)
        else:
            new_BxT = self.ids_BxT[:, self.cache.length :]
            hidden_BxTxD = self.net.hidden_after(new_BxT, self.cache)
        return self.net.head(hidden_BxTxD[:, -1])

    def append(self, tokens: list[int]) -> None:
        """The next token of each sample."""
        if self.ids_BxT.shape[1] == self.window:
            self.ids_BxT = self.ids_BxT[:, self.window - self.window // 2 :]
            if self.cache is not None:
                self.cache.clear()
        new_Bx1 = torch.tensor(tokens, device=self.ids_BxT.device)[:, None]
        self.ids_BxT = torch.cat((self.ids_BxT, new_Bx1), dim=1)

    def take(self, rows: list[int]) -> None:
        """Makes sample i what sample rows[i] was: dropped, doubled or in another order."""
        self.ids_BxT = self.ids_BxT[rows]
        if self.cache is not None:
            self.cache.take(rows)
