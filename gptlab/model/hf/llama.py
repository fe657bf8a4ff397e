"""Llama as Hugging Face's transformers keeps it: for models with rotary positions, RMSNorm and
SwiGLU, which GPT-2's format cannot say."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.model.hf.gpt2 import rename
from gptlab.utils.errors import UserError

NAMES = {  # ours: theirs
    "embedding": "model.embed_tokens",
    "blocks": "model.layers",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention.out": "self_attn.o_proj",
    "feed_forward": "mlp",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
KIND = {
    **{"norm": "pre", "norm_type": "rmsnorm", "final_norm": True, "position": "rotary"},
    **{"bias": False, "qkv_bias": None, "head_bias": False, "scale_embeddings": False},
    **{"feed_forward": "swiglu", "let_attention_see_the_future": False, "n_classes": None},
}


def to_llama_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of such a model; raises UserError that lists what Llama's format cannot say."""
    differs = [f"model.{n}={v}" for n in KIND if (v := getattr(config, n)) != KIND[n]]
    if differs:
        raise UserError(f"Llama's format has no {', '.join(differs)}")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff or 4 * config.d_model,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
    }


def to_llama_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Ours under theirs; queries, keys and values are three matrices there."""
    made = {}
    for name, weight in weights.items():
        if name.endswith("attention.qkv.weight"):
            stem = rename(name.removesuffix("attention.qkv.weight"), NAMES)
            for kind, part in zip("qkv", weight.chunk(3), strict=True):
                made[f"{stem}self_attn.{kind}_proj.weight"] = part
        else:
            made[rename(name, NAMES)] = weight
    return made


def from_llama(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Theirs under ours."""
    back = {theirs: ours for ours, theirs in NAMES.items()}
    made = {}
    for name, weight in weights.items():
        stem, found, kind = name.partition(".self_attn.")
        if not found or kind.startswith("o_proj"):
            made[rename(name, back)] = weight
        elif kind.startswith("q_proj"):
            parts = [weights[f"{stem}.self_attn.{each}_proj.weight"] for each in "qkv"]
            made[rename(f"{stem}.", back) + "attention.qkv.weight"] = torch.cat(parts)
    made.setdefault("head.weight", made.get("embedding.weight"))
    return made


def config_from_llama(weights: dict[str, Tensor], settings: dict[str, Any]) -> ModelConfig:
    """The model of weights under our names; raises UserError for what ours do not compute."""
    said = {"rope_scaling": None, "num_key_value_heads": None, **settings}
    rope = said.get("rope_parameters") or {}
    theta = said.get("rope_theta", rope.get("rope_theta", 10_000.0))
    wanted = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False}
    strange = [f"{n}={said.get(n, v)}" for n, v in wanted.items() if said.get(n, v) != v]
    strange += [f"rope_theta={theta}"] if theta != 10_000.0 else []
    strange += ["rope_scaling"] if said["rope_scaling"] else []
    if said["num_key_value_heads"] not in (None, said.get("num_attention_heads")):
        strange.append("fewer heads of keys and values")
    if strange:
        raise UserError(f"its config.json has {', '.join(strange)}; gptlab computes otherwise")
    vocabulary, width = weights["embedding.weight"].shape
    inner = len(weights["blocks.0.feed_forward.up.weight"])
    return replace(
        ModelConfig(**KIND),
        n_layer=int(said["num_hidden_layers"]),
        n_head=int(said["num_attention_heads"]),
        d_model=width,
        d_ff=None if inner == 4 * width else inner,
        context_length=int(said["max_position_embeddings"]),
        vocab_size=vocabulary,
        tied_head=bool(weights["head.weight"].equal(weights["embedding.weight"])),
    )
