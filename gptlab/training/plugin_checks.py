"""Check the model's parts that come from other packages, before the first step."""

from typing import Any

import torch
from torch import Tensor

from gptlab.config.keys import plugin_references
from gptlab.model.gpt import GPT
from gptlab.utils.plugins import PluginError, is_reference


@torch.no_grad()
def check_shapes(net: GPT) -> None:
    """Raise PluginError for a part whose output has another shape than its input."""
    config, device = net.config, net.embedding.weight.device
    block: Any = net.blocks[0]
    x = torch.zeros(1, 2, config.d_model, device=device)
    q = torch.zeros(1, config.n_head, 2, config.d_model // config.n_head, device=device)
    outputs = [
        ("norm_type", x, lambda: block.attention_norm(x)),
        ("feed_forward", x, lambda: block.feed_forward(x)),
        ("norm", x, lambda: block.residual(x, block.attention_norm, block.feed_forward)),
        ("position", x, lambda: net.positions.add(x)),
        ("position", q, lambda: net.positions.rotate(q)),
        ("attention", q, lambda: block.attention.attend(q, q, q, True, 0.0)),
    ]
    for key, source, compute in outputs:
        name = getattr(config, key)
        if is_reference(name) and shape_of(output := compute()) != shape_of(source):
            raise PluginError(
                f"model.{key}={name}: must return the shape {shape_of(source)} that it gets, not "
                f"{shape_of(output)}"
            )


def shape_of(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


@torch.no_grad()
def check_cached_outputs(net: GPT, ids_1xT: Tensor) -> None:
    """Raise PluginError if such parts compute something else with a cache, as in generation."""
    references = plugin_references(net.config)
    if not references or net.config.let_attention_see_the_future:  # the latter has no cache
        return
    was_training, half, length = net.training, ids_1xT.shape[1] // 2, ids_1xT.shape[1]
    net.eval()
    expected_1xTxD = net.hidden_states(ids_1xT)
    cache = net.make_cache(1, length)
    parts = [(0, half + 1), *((at, at + 1) for at in range(half + 1, length))]
    cached = [net.hidden_cached(ids_1xT[:, start:end], cache) for start, end in parts]
    net.train(was_training)
    if not torch.allclose(torch.cat(cached, dim=1), expected_1xTxD, rtol=0.01, atol=0.01):
        raise PluginError(
            f"model: {', '.join(references)} computes something else for one "
            "token after another than for a whole text; count positions from `start`, and mix "
            "tokens only in attention"
        )
