"""A run's model as a folder that Hugging Face's transformers opens, or its LoRA additions alone."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.config.schema import ExportConfig
from gptlab.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, read_merges
from gptlab.model.checkpoint import LoadedModel, read_lora_adapter
from gptlab.model.hf import gpt2, llama
from gptlab.model.hf.pretrained import OURS, load_model
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import atomic_folder
from gptlab.utils.errors import UserError

Files = dict[str, Any]  # name: an object for JSON, or a text


def export_model(config: ExportConfig) -> None:
    """Writes the folder `to`, which appears whole or not at all; raises UserError."""
    path = run_dir.find_checkpoint(config.run, config.run_root)
    folder = check_output_dir(config.output_dir)
    if config.adapter:
        weights, files = read_lora_adapter(path)
        name = "adapter_model.safetensors"
    else:
        model = load_model(path)
        weights, files = full_model_files(model, path)
        name = run_dir.WEIGHT_FILES[0]
    with atomic_folder(folder, "output_dir") as building:
        contiguous = {key: weight.contiguous() for key, weight in weights.items()}
        save_file(contiguous, building / name, metadata={"format": "pt"})
        for file, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=1)
            (building / file).write_text(text, encoding="utf-8")
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def check_output_dir(to: str | None) -> Path:
    """Raises UserError where a folder cannot appear, before anything is read."""
    if not to:
        raise UserError("output_dir: name the folder to write, as in output_dir=exported")
    try:
        folder = Path(to).expanduser()
        if folder.exists() or folder.is_symlink():
            raise UserError(f"output_dir={to}: is there already; name another folder")
    except (OSError, RuntimeError) as error:
        raise UserError(f"output_dir={to:.200}: {str(error).splitlines()[0]:.200}") from None
    return folder


def full_model_files(model: LoadedModel, path: Path) -> tuple[dict[str, Tensor], Files]:
    """All weights under the names of the format that can say this model, and the other files.

    Raises UserError that lists what no format can say.
    """
    config, weights = model.net.config, dict(model.net.state_dict())
    if config.tied_head:
        del weights["head.weight"]  # the embedding's
    reasons = []
    for form in (gpt2, llama):
        try:
            settings, named = form.to_settings(config), form.to_weights(weights, config)
            break
        except UserError as error:
            reasons.append(str(error))
    else:
        raise UserError(f"{path}: transformers has no such model: {'; '.join(reasons)}")
    tokenizer = model.tokenizer
    ends = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    ours = {
        "tokenizer": tokenizer.state(),
        "eot_first": model.eot_first,
        "step": model.step,
        "window": config.trained_length,
        "data": {"task": model.config["data"].get("task", "text"), **template_of(model)},
    }
    return named, {
        "config.json": settings | ends,
        "generation_config.json": ends | {"pad_token_id": tokenizer.eot},
        OURS: ours,
        **tokenizer_files(tokenizer, config.window),
    }


def template_of(model: LoadedModel) -> dict[str, str]:
    data = model.config["data"]
    return {"template": data["template"]} if data.get("task") == "instructions" else {}


def tokenizer_files(tokenizer: Tokenizer, window: int) -> Files:
    """What AutoTokenizer reads; raises UserError for a vocabulary that it cannot be told."""
    settings = {
        "model_max_length": window,
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(tokenizer, GPT2Tokenizer):
        merges = read_merges(GPT2Tokenizer.VOCAB)
        files = {"vocab.json": gpt2_vocabulary(tokenizer), "merges.txt": merges}
        return files | {"tokenizer_config.json": settings | {"tokenizer_class": "GPT2Tokenizer"}}
    if isinstance(tokenizer, CharTokenizer):
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        return {"tokenizer.json": char_tokenizer_json(tokenizer), "tokenizer_config.json": settings}
    raise UserError(
        f"transformers has no such tokenizer: {tokenizer.state()['name']}; train with "
        "tokenizer=gpt2 or tokenizer=char"
    )


def gpt2_vocabulary(tokenizer: GPT2Tokenizer) -> dict[str, int]:
    """vocab.json: each token with its bytes shown as characters that print, as in merges.txt."""
    prints = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    shown = {b: chr(b) for b in prints}
    shown |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in shown)}
    pieces = {
        "".join(shown[b] for b in tokenizer.token_bytes(token)): token
        for token in range(tokenizer.eot)
    }
    return pieces | {"<|endoftext|>": tokenizer.eot}


def char_tokenizer_json(tokenizer: CharTokenizer) -> Files:
    """tokenizer.json of a list of characters, in the format of the `tokenizers` library."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    end = {"id": tokenizer.eot, "content": "<|endoftext|>", "special": True, **special}
    return {
        "version": "1.0",
        "added_tokens": [end],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {**tokenizer.ids, "<|endoftext|>": tokenizer.eot},
            "unk_token": "<|endoftext|>",
        },
    }
