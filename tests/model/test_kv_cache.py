"""The key-value cache in the decoder; tests/generation/test_context_window.py tests its use."""

import pytest
import torch

from gptlab.config.schema import ModelConfig
from gptlab.model.gpt import GPT
from gptlab.model.layers import ATTENTIONS

SMALL = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 12, "vocab_size": 13}


@pytest.mark.fast
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.inference_mode()
def test_several_tokens_at_once_do_not_see_the_future(attention: str) -> None:
    net = GPT(ModelConfig(**SMALL, position="rotary", attention=attention, init_std=0.3)).eval()
    ids = torch.arange(12)[None]
    whole = net.hidden_states(ids)
    cache = net.make_cache(1, 12)
    parts = [net.hidden_cached(part, cache) for part in ids.split((5, 4, 1, 2), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)


def test_a_model_that_sees_the_future_has_no_cache() -> None:
    with pytest.raises(ValueError, match="future"):
        GPT(ModelConfig(**SMALL, let_attention_see_the_future=True)).make_cache(1, 12)
