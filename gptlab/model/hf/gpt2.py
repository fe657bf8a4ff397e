"""Convert weights and config between gptlab and GPT-2 in Hugging Face's transformers."""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.utils.errors import UserError, invalid_choice
from gptlab.utils.plugins import is_reference

HF_TO_GPTLAB = {
    "transformer.wte": "embedding",
    "transformer.wpe": "positions.table",
    "transformer.h": "blocks",
    "ln_1": "attention_norm",
    "ln_2": "feed_forward_norm",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
    "transformer.ln_f": "final_norm",
    "lm_head": "head",
}
GPTLAB_TO_HF = {gptlab: hf for hf, gptlab in HF_TO_GPTLAB.items()}
CONV1D = re.compile(r"\.c_(attn|proj|fc)\.weight$")  # (in, out) there, (out, in) here
MASKS = re.compile(r"\.attn\.(masked_)?bias$")  # causal masks, not weights
STRUCTURE: dict[str, Any] = {  # what makes a gptlab model a GPT-2
    **{"norm": "pre", "norm_type": "layernorm", "final_norm": True, "position": "learned"},
    **{"bias": True, "qkv_bias": None, "head_bias": False, "scale_embeddings": False},
    **{"let_attention_see_the_future": False, "n_classes": None},
}
ACTIVATIONS = {  # gptlab: transformers; the first name is the one to export
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "gelu": ("gelu",),
    "relu": ("relu",),
}
REQUIRED_SETTINGS: dict[str, Any] = {  # the only values of config.json that gptlab implements
    **{"model_type": "gpt2", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True},
    **{"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
}


def rename_weight(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(^|\.){re.escape(old)}\.", rf"\g<1>{new}.", name)
    return name


def from_gpt2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a GPT2LMHeadModel, or of the GPT2Model in it, to gptlab's names."""
    converted = {}
    for name, weight in weights.items():
        if MASKS.search(name):
            continue
        prefix = "" if name.startswith(("transformer.", "lm_head.")) else "transformer."
        weight = weight.T if CONV1D.search(name) else weight
        converted[rename_weight(prefix + name, HF_TO_GPTLAB)] = weight
    if "embedding.weight" in converted:
        converted.setdefault("head.weight", converted["embedding.weight"])
    return converted


def to_gpt2_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert gptlab's weights to transformers' names."""
    renamed = {rename_weight(name, GPTLAB_TO_HF): weight for name, weight in weights.items()}
    return {name: weight.T if CONV1D.search(name) else weight for name, weight in renamed.items()}


def differing_keys(config: ModelConfig, structure: dict[str, Any]) -> list[str]:
    values = {name: getattr(config, name) for name in structure}
    if is_reference(config.attention):  # fused and eager compute the same
        values["attention"] = config.attention
    return [f"model.{name}={v}" for name, v in values.items() if v != structure.get(name)]


def to_gpt2_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a model; raise UserError that lists what GPT-2 cannot express."""
    unsupported = differing_keys(config, STRUCTURE)
    if config.feed_forward not in ACTIVATIONS:
        unsupported.append(f"model.feed_forward={config.feed_forward}")
    if unsupported:
        raise UserError(f"GPT-2's format has no {', '.join(unsupported)}")
    return REQUIRED_SETTINGS | {
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": ACTIVATIONS[config.feed_forward][0],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.d_ff,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    }


def config_from_gpt2(weights: dict[str, Tensor], settings: dict[str, Any] | None) -> ModelConfig:
    """Return the model config for converted weights and config.json (None if there is none).

    Raises UserError if this is not a GPT-2, or one with settings that gptlab does not implement.
    """
    settings = REQUIRED_SETTINGS | (settings or {})
    for key, value in REQUIRED_SETTINGS.items():
        if settings[key] != value:
            raise UserError(f"its config.json has {key}={settings[key]}; gptlab needs {value}")
    names = {hf_name: name for name, hf_names in ACTIVATIONS.items() for hf_name in hf_names}
    activation = settings.get("activation_function", "gelu_new")
    if activation not in names:
        raise UserError(invalid_choice("its config.json: activation_function", activation, names))
    try:
        vocab_size, d_model = weights["embedding.weight"].shape
        context_length = len(weights["positions.table.weight"])
        d_ff = len(weights["blocks.0.feed_forward.up.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(f"its weights are not a GPT-2's (no {error})") from None
    blocks = [int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))]
    n_head = settings.get("n_head", d_model // 64)  # 64 per head in all sizes of GPT-2
    if not isinstance(n_head, int) or n_head < 1 or d_model % n_head:
        raise UserError(f"n_head={n_head} must divide its width {d_model}; is config.json missing?")
    head, embedding = weights["head.weight"], weights["embedding.weight"]
    return ModelConfig(
        **STRUCTURE,
        feed_forward=names[activation],
        n_layer=max(blocks) + 1,
        n_head=n_head,
        d_model=d_model,
        d_ff=None if d_ff == 4 * d_model else d_ff,
        context_length=context_length,
        vocab_size=vocab_size,
        tied_head=head is embedding or bool(head.equal(embedding)),
    )


def to_peft(
    matrices: dict[str, Tensor], config: ModelConfig, rank: int, alpha: float, base: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert LoRA matrices to the PEFT library's names, with its adapter_config.json.

    Raises UserError for a model that is not a GPT-2.
    """
    to_gpt2_config(replace(config, n_classes=None))
    weights, layers = {}, set()
    for name, weight in matrices.items():
        layer, _, kind = name.rpartition(".")
        hf_layer = rename_weight(f"{layer}.", GPTLAB_TO_HF).removesuffix(".")
        layers.add(re.sub(r"^transformer\.h\.\d+\.", "", hf_layer))
        side = {"lora_down": "lora_A", "lora_up": "lora_B"}[kind]
        weights[f"base_model.model.{hf_layer}.{side}.weight"] = weight
    return weights, {
        "adapter_config.json": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": True,
            "target_modules": sorted(layers),
        }
    }
