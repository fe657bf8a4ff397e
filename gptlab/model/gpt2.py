"""The names that weights have in GPT-2 as Hugging Face's transformers keeps it, and here."""

import re

from torch import Tensor

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


def rename(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(^|\.){re.escape(old)}\.", rf"\g<1>{new}.", name)
    return name


def from_gpt2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers' GPT2LMHeadModel under our names."""
    return {
        rename(name, NAMES): weight.T if CONV1D.search(name) else weight
        for name, weight in weights.items()
    }


def to_gpt2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours under theirs."""
    back = {ours: theirs for theirs, ours in NAMES.items()}
    named = ((rename(name, back), weight) for name, weight in weights.items())
    return {name: weight.T if CONV1D.search(name) else weight for name, weight in named}
