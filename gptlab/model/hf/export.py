"""Export a model as a folder that Hugging Face's transformers opens, or its LoRA adapter alone."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.config.schema import ExportConfig
from gptlab.data.tokenizer import (
    END_OF_TEXT,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
    byte_characters,
    read_bpe_merges,
)
from gptlab.model.checkpoint import LoadedModel, read_lora_adapter
from gptlab.model.hf.gpt2 import to_gpt2_config, to_gpt2_weights
from gptlab.model.hf.llama import to_llama_config, to_llama_weights
from gptlab.model.hf.pretrained import GPTLAB_FILE, load_model
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import atomic_folder
from gptlab.utils.errors import UserError

Files = dict[str, Any]  # file name: text, or an object to write as JSON
FORMATS = {"gpt2": (to_gpt2_config, to_gpt2_weights), "llama": (to_llama_config, to_llama_weights)}


def export_model(config: ExportConfig) -> None:
    """Write the folder `output_dir`, which appears complete or not at all; raise UserError."""
    path = run_dir.find_checkpoint(config.run, config.run_root)
    folder = check_export_dir(config.output_dir)
    if config.adapter:
        weights, files = read_lora_adapter(path)
        weights_file = "adapter_model.safetensors"
    else:
        weights, files = full_model_files(load_model(path))
        weights_file = run_dir.WEIGHT_FILES[0]
    with atomic_folder(folder, "output_dir") as staging:
        contiguous = {key: weight.contiguous() for key, weight in weights.items()}
        save_file(contiguous, staging / weights_file, metadata={"format": "pt"})
        for file, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1)
            (staging / file).write_text(text, encoding="utf-8")
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def check_export_dir(name: str | None) -> Path:
    """Raise UserError unless the folder can be created, before anything is loaded."""
    if not name:
        raise UserError("output_dir: name the folder to write, as in output_dir=exported")
    try:
        folder = Path(name).expanduser()
        if folder.exists() or folder.is_symlink():
            raise UserError(f"output_dir={name} already exists; name a new folder")
    except (OSError, RuntimeError) as error:
        raise UserError(f"output_dir={name:.200}: {str(error).splitlines()[0]:.200}") from None
    return folder


def full_model_files(model: LoadedModel) -> tuple[dict[str, Tensor], Files]:
    """Return all weights in the first format that fits the model, and the other files.

    Raises UserError that lists what the formats cannot express.
    """
    config, weights = model.net.config, dict(model.net.state_dict())
    if config.tied_head:
        del weights["head.weight"]  # stored as the embedding
    reasons = []
    for to_config, to_weights in FORMATS.values():
        try:
            settings, hf_weights = to_config(config), to_weights(weights, config)
            break
        except UserError as error:
            reasons.append(str(error))
    else:
        raise UserError(f"{model.path}: transformers has no such model: {'; '.join(reasons)}")
    tokenizer, data = model.tokenizer, {"task": "text", **model.config["data"]}
    keys = ("task", "template") if data["task"] == "instructions" else ("task",)
    special_tokens = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    return hf_weights, {
        "config.json": settings | special_tokens,
        "generation_config.json": special_tokens | {"pad_token_id": tokenizer.eot},
        GPTLAB_FILE: {
            "tokenizer": tokenizer.state(),
            "eot_first": model.eot_first,
            "step": model.step,
            "window": config.trained_length,
            "data": {key: data[key] for key in keys},
        },
        **tokenizer_files(tokenizer, config.window),
    }


def tokenizer_files(tokenizer: Tokenizer, window: int) -> Files:
    """Return the files that AutoTokenizer reads; raise UserError for unsupported tokenizers."""
    settings: Files = {"model_max_length": window, "clean_up_tokenization_spaces": False}
    settings |= dict.fromkeys(("eos_token", "bos_token", "unk_token"), END_OF_TEXT)
    if type(tokenizer) is GPT2Tokenizer:
        merges = read_bpe_merges(GPT2Tokenizer.VOCAB_SHA256)
        files = {"vocab.json": gpt2_vocabulary(tokenizer), "merges.txt": merges}
        return files | {"tokenizer_config.json": settings | {"tokenizer_class": "GPT2Tokenizer"}}
    if type(tokenizer) is CharTokenizer:
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        return {"tokenizer.json": char_tokenizer_json(tokenizer), "tokenizer_config.json": settings}
    raise UserError(
        f"transformers has no tokenizer like {tokenizer.state()['name']}; train with "
        "tokenizer=gpt2 or tokenizer=char"
    )


def gpt2_vocabulary(tokenizer: GPT2Tokenizer) -> dict[str, int]:
    """Return vocab.json: each token's bytes as printable characters, as in merges.txt."""
    characters = byte_characters()
    tokens = map(tokenizer.token_bytes, range(tokenizer.eot))
    pieces = ["".join(characters[b] for b in token) for token in tokens]
    return {piece: token for token, piece in enumerate([*pieces, END_OF_TEXT])}


def char_tokenizer_json(tokenizer: CharTokenizer) -> Files:
    """Return tokenizer.json for a list of characters, in the format of the tokenizers library."""
    vocabulary = tokenizer.ids | {END_OF_TEXT: tokenizer.eot}
    eot: dict[str, Any] = {"id": tokenizer.eot, "content": END_OF_TEXT, "special": True}
    eot |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [eot],
        "pre_tokenizer": {
            **{"type": "Split", "pattern": {"Regex": r"[\s\S]"}},
            **{"behavior": "Isolated", "invert": False},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": END_OF_TEXT},
    }
