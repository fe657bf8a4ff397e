"""GPT-2 as Hugging Face's transformers keeps it: the names of its weights, and its settings."""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.utils.errors import UserError

NAMES = {  # theirs: ours
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
CONV1D = re.compile(r"\.c_(attn|proj|fc)\.weight$")  # kept as (in, out), ours as (out, in)
MASKS = re.compile(r"\.attn\.(masked_)?bias$")  # no weights: which tokens come before which


def rename(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(^|\.){re.escape(old)}\.", rf"\g<1>{new}.", name)
    return name


def from_gpt2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of GPT2LMHeadModel, or of the GPT2Model in it, under our names."""
    made = {}
    for name, weight in weights.items():
        if MASKS.search(name):
            continue
        bare = not name.startswith(("transformer.", "lm_head."))
        ours = rename(f"transformer.{name}" if bare else name, NAMES)
        made[ours] = weight.T if CONV1D.search(name) else weight
    made.setdefault("head.weight", made.get("embedding.weight"))
    return made


def to_gpt2_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Ours under theirs."""
    back = {ours: theirs for theirs, ours in NAMES.items()}
    named = ((rename(name, back), weight) for name, weight in weights.items())
    return {name: weight.T if CONV1D.search(name) else weight for name, weight in named}


# What GPT-2 is, of what our models can be.
KIND = {
    **{"norm": "pre", "norm_type": "layernorm", "final_norm": True, "position": "learned"},
    **{"bias": True, "qkv_bias": None, "head_bias": False, "scale_embeddings": False},
    **{"let_attention_see_the_future": False, "n_classes": None},
}
ACTIVATIONS = {  # ours: theirs, the first of which we write
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "gelu": ("gelu",),
    "relu": ("relu",),
}
# Settings of theirs that change what is computed, with the one value that ours compute.
COMPUTED = {
    **{"model_type": "gpt2", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True},
    **{"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
}


def to_gpt2_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of such a model; raises UserError that lists what GPT-2's format cannot say."""
    differs = [
        f"model.{name}={value}" for name in KIND if (value := getattr(config, name)) != KIND[name]
    ]
    if config.feed_forward not in ACTIVATIONS:
        differs.append(f"model.feed_forward={config.feed_forward}")
    if differs:
        raise UserError(f"GPT-2's format has no {', '.join(differs)}")
    return COMPUTED | {
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
    """The model of weights under our names; `settings` is config.json, or None without one.

    Raises UserError for what is no GPT-2, or computes what ours do not.
    """
    said = COMPUTED | (settings or {})
    for key, value in COMPUTED.items():
        if said[key] != value:
            raise UserError(f"its config.json says {key}={said[key]}; gptlab computes {value}")
    theirs = said.get("activation_function", "gelu_new")
    activation = [ours for ours, names in ACTIVATIONS.items() if theirs in names]
    if not activation:
        raise UserError(f"its config.json says activation_function={theirs}, which is none of ours")
    try:
        vocabulary, width = weights["embedding.weight"].shape
        context = len(weights["positions.table.weight"])
        inner = len(weights["blocks.0.feed_forward.up.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(f"its weights are not a GPT-2's (no {error})") from None
    blocks = [int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))]
    heads = said.get("n_head", width // 64)  # of all sizes of GPT-2 a head has 64
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(f"n_head={heads} does not divide its width {width}; is config.json there?")
    tied = weights["head.weight"] is weights["embedding.weight"]
    return replace(
        ModelConfig(**KIND),
        feed_forward=activation[0],
        n_layer=max(blocks) + 1,
        n_head=heads,
        d_model=width,
        d_ff=None if inner == 4 * width else inner,
        context_length=context,
        vocab_size=vocabulary,
        tied_head=tied or bool(weights["head.weight"].equal(weights["embedding.weight"])),
    )


def to_peft(
    added: dict[str, Tensor], config: ModelConfig, rank: int, alpha: float, base: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """LoRA's matrices as the PEFT library keeps them for GPT-2, and its adapter_config.json.

    Raises UserError for a model that is no GPT-2.
    """
    to_gpt2_config(replace(config, n_classes=None))
    back = {ours: theirs for theirs, ours in NAMES.items()}
    weights, layers = {}, set()
    for name, weight in added.items():
        layer, _, kind = name.rpartition(".")
        theirs = rename(f"{layer}.", back).removesuffix(".")
        layers.add(re.sub(r"^transformer\.h\.\d+\.", "", theirs))
        side = {"lora_down": "lora_A", "lora_up": "lora_B"}[kind]
        weights[f"base_model.model.{theirs}.{side}.weight"] = weight
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
