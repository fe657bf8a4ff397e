"""Convert weights and config between gptlab and Llama in Hugging Face's transformers.

Llama's format fits models with rotary positions, RMSNorm and SwiGLU.
"""

from typing import Any

import torch
from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.model.hf.gpt2 import differing_keys, rename_weight
from gptlab.utils.errors import UserError

GPTLAB_TO_HF = {
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
HF_TO_GPTLAB = {hf: gptlab for gptlab, hf in GPTLAB_TO_HF.items()}
STRUCTURE: dict[str, Any] = {  # what makes a gptlab model a Llama
    **{"norm": "pre", "norm_type": "rmsnorm", "final_norm": True, "position": "rotary"},
    **{"bias": False, "qkv_bias": None, "head_bias": False, "scale_embeddings": False},
    **{"feed_forward": "swiglu", "let_attention_see_the_future": False, "n_classes": None},
}
REQUIRED_SETTINGS: dict[str, Any] = {  # the only values of config.json that gptlab implements
    **{"rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu"},
    **{"attention_bias": False, "mlp_bias": False},
}


def to_llama_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a model; raise UserError that lists what Llama cannot express."""
    if unsupported := differing_keys(config, STRUCTURE):
        raise UserError(f"Llama's format has no {', '.join(unsupported)}")
    return REQUIRED_SETTINGS | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff or 4 * config.d_model,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    }


def to_llama_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert gptlab's weights to transformers' names, with qkv split into three matrices."""
    converted = {}
    for name, weight in weights.items():
        if name.endswith("attention.qkv.weight"):
            block = rename_weight(name.removesuffix("attention.qkv.weight"), GPTLAB_TO_HF)
            for kind, part in zip("qkv", weight.chunk(3), strict=True):
                converted[f"{block}self_attn.{kind}_proj.weight"] = part
        else:
            converted[rename_weight(name, GPTLAB_TO_HF)] = weight
    return converted


def from_llama(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert transformers' weights to gptlab's names, with q, k and v joined into one matrix."""
    converted = {}
    for name, weight in weights.items():
        block, is_attention, matrix = name.partition(".self_attn.")
        if not is_attention or matrix.startswith("o_proj"):
            converted[rename_weight(name, HF_TO_GPTLAB)] = weight
        elif matrix.startswith("q_proj"):
            parts = [weights[f"{block}.self_attn.{kind}_proj.weight"] for kind in "qkv"]
            stem = rename_weight(f"{block}.", HF_TO_GPTLAB)
            converted[f"{stem}attention.qkv.weight"] = torch.cat(parts)
    if "embedding.weight" in converted:
        converted.setdefault("head.weight", converted["embedding.weight"])
    return converted


def config_from_llama(weights: dict[str, Tensor], settings: dict[str, Any]) -> ModelConfig:
    """Return the model config for converted weights and config.json.

    Raises UserError for settings that gptlab does not implement.
    """
    settings = (settings.get("rope_parameters") or {}) | settings
    required = REQUIRED_SETTINGS | {"rope_type": "default", "rope_scaling": None}
    unsupported = [f"{k}={settings[k]}" for k, v in required.items() if settings.get(k, v) != v]
    if settings.get("num_key_value_heads") not in (None, settings.get("num_attention_heads")):
        unsupported.append("fewer key and value heads than query heads")
    if unsupported:
        raise UserError(f"its config.json has {', '.join(unsupported)}: gptlab does not support it")
    vocab_size, d_model = weights["embedding.weight"].shape
    d_ff = len(weights["blocks.0.feed_forward.up.weight"])
    return ModelConfig(
        **STRUCTURE,
        n_layer=int(settings["num_hidden_layers"]),
        n_head=int(settings["num_attention_heads"]),
        d_model=d_model,
        d_ff=None if d_ff == 4 * d_model else d_ff,
        context_length=int(settings["max_position_embeddings"]),
        vocab_size=vocab_size,
        tied_head=bool(weights["head.weight"].equal(weights["embedding.weight"])),
    )
