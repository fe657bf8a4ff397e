"""The cache changes nothing: same logits at every position, for every variant of the model."""

import itertools
from dataclasses import replace

import pytest
import torch

from gptlab.config.schema import ModelConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer
from gptlab.generation.context_window import ContextWindow
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from gptlab.model.layers import ATTENTIONS, FEED_FORWARDS, NORMS, POSITIONS, RESIDUALS

pytestmark = pytest.mark.fast
TOKENIZER = CharTokenizer.train(["abcdefghij"], TokenizerConfig())
SMALL = ModelConfig(
    n_layer=2, n_head=2, d_model=16, context_length=12, vocab_size=13, init_std=0.3
)  # fmt: skip
VARIANTS = [
    *(
        {"position": p, "norm": n, "attention": a}
        for p, n, a in itertools.product(POSITIONS, RESIDUALS, ATTENTIONS)
    ),
    *({"feed_forward": name} for name in FEED_FORWARDS),
    *({"norm_type": name} for name in NORMS),
    {"bias": False, "final_norm": False, "tied_head": False, "head_bias": True},
    {"scale_embeddings": True, "position": "sinusoidal", "dropout": 0.5, "attention_dropout": 0.5},
    {"trained_length": 7},
    {"let_attention_see_the_future": True},
]


def make_net(**changes: object) -> GPT:
    torch.manual_seed(1)
    return GPT(replace(SMALL, **changes)).eval()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@torch.inference_mode()
def test_logits_with_and_without_the_cache_are_equal(changes: dict) -> None:
    """Samples are dropped and repeated on the way, and the window is full at least twice."""
    net = make_net(**changes)
    window = net.config.window
    generator = torch.Generator().manual_seed(3)
    for prompt_length in (1, window, window + 3):
        prompt = torch.randint(13, (prompt_length,), generator=generator).tolist()
        contexts = [ContextWindow(net, prompt, 1000, use_cache) for use_cache in (True, False)]
        for step in range(20):
            cached, plain = (context.logits() for context in contexts)
            assert float((cached - plain).abs().max()) <= 1e-5
            ids_BxT = contexts[0].ids_BxT
            torch.testing.assert_close(plain, net(ids_BxT)[:, -1])
            seen = ids_BxT.shape[1]
            assert seen <= window and (seen > window // 2 or seen == prompt_length + step)
            rows = {4: [0, 0, 0], 9: [2, 0]}.get(step, list(range(len(ids_BxT))))
            tokens = torch.randint(13, (len(rows),), generator=generator).tolist()
            for context in contexts:
                context.select(rows)
                context.append(tokens)


def test_the_cache_reads_only_the_new_token() -> None:
    net = make_net()
    shapes = []
    net.blocks[0].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[:2]))
    request = GenerationRequest(net, TOKENIZER, [1, 2, 3], num_samples=4, max_new_tokens=8)
    generate_samples(request)
    assert shapes[0] == (1, 3)  # the prompt, once for all samples
    assert all(tokens == 1 for _, tokens in shapes[1:]) and len(shapes) > 1


def test_the_cache_is_no_longer_than_the_text_or_the_window() -> None:
    net = make_net()
    shape = ContextWindow(net, [1, 2], 5).cache.kv_2xLxBxHxWxK.shape
    assert shape == (2, 2, 1, 2, 5, 8)
    assert ContextWindow(net, [1, 2], 10**6).cache.kv_2xLxBxHxWxK.shape == (2, 2, 1, 2, 12, 8)


def test_texts_with_and_without_the_cache_are_equal() -> None:
    for changes in ({}, {"position": "rotary"}, {"let_attention_see_the_future": True}):
        request = GenerationRequest(
            make_net(**changes), TOKENIZER, [1, 2], num_samples=5, max_new_tokens=60, seed=9
        )
        texts = [
            [sample.text for sample in generate_samples(replace(request, use_cache=use_cache))]
            for use_cache in (True, False)
        ]
        assert texts[0] == texts[1] and len(set(texts[0])) > 1
