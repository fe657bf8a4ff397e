"""Models that others have trained: GPT-2's weights from a folder, a file, or the hub.

Nothing in such a file is executed: safetensors hold tensors alone, and of a .bin only tensors are
unpickled.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.config.validation import validate_config
from gptlab.data.prompt_templates import TEMPLATES
from gptlab.data.sources import require_network
from gptlab.data.tokenizer import GPT2Tokenizer, load_tokenizer
from gptlab.model.checkpoint import LoadedModel, load_checkpoint
from gptlab.model.gpt import GPT
from gptlab.model.hf import gpt2, llama
from gptlab.model.size import check_size
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.run_dir import WEIGHT_FILES, is_weights_path

OURS = "gptlab.json"  # beside a model that gptlab exported: what its tokenizer and its run were
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # of a model on the hub
LOCAL_WAY = "with a copy of yours: model.pretrained=FOLDER, or random weights: =null"


def load_model(path: Path) -> LoadedModel:
    """The model of a checkpoint, or of a folder or file of GPT-2's; raises UserError."""
    return load_folder(path) if is_weights_path(path) else load_checkpoint(path)


def resolve_pretrained(name: str) -> Path:
    """The local path that `model.pretrained` names, or that of what the hub has of this name.

    Raises UserError where there is neither.
    """
    try:
        path = Path(name).expanduser()
        there = path.exists()
    except (RuntimeError, OSError) as error:
        raise UserError(f"model.pretrained={name:.200}: {error!s:.200}") from None
    if there:
        if not is_weights_path(path):
            raise UserError(
                f"model.pretrained={name}: holds no weights (looked for {', '.join(WEIGHT_FILES)})"
            )
        return path
    if not NAME.fullmatch(name) or name.endswith((".safetensors", ".bin")):
        names = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, names)
        raise UserError(f"model.pretrained={name}: there is no such file or folder{near}")
    return download_pretrained(name)


def download_pretrained(name: str) -> Path:
    """The hub's model in its cache on this machine, fetched if need be; broken off, it goes on.

    HF_ENDPOINT names a mirror, HF_HOME another cache. Raises UserError.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def get(file: str, **how: bool) -> Path:
        return verified(Path(hf_hub_download(name, file, **how)))

    for file in WEIGHT_FILES:
        with contextlib.suppress(LocalEntryNotFoundError, OSError, ValueError):
            get("config.json", local_files_only=True)
            return get(file, local_files_only=True).parent
    require_network(name, "model.pretrained", LOCAL_WAY)
    try:
        get("config.json")
        try:
            return get(WEIGHT_FILES[0]).parent
        except EntryNotFoundError:
            return get(WEIGHT_FILES[1]).parent
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        if isinstance(error, EntryNotFoundError | RepositoryNotFoundError):
            reason = "the hub has no such model, or it has no weights that can be read"
        raise UserError(
            f"model.pretrained={name}: cannot be fetched ({reason}); {LOCAL_WAY}"
        ) from None


def verified(path: Path) -> Path:
    """Raises UserError unless the file has the SHA-256 that the hub's cache keeps it under."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                raise UserError(f"{blob}: damaged (its hash differs); remove it to fetch it again")
    return path


def load_folder(path: Path) -> LoadedModel:
    """The model in a folder as transformers keeps GPT-2 (or Llama), or in its file of weights.

    Raises UserError for what is missing, left over, of another shape, or none of GPT-2's.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else next(p for n in WEIGHT_FILES if (p := path / n).is_file())
    settings, ours = read_json_object(folder / "config.json"), read_json_object(folder / OURS) or {}
    try:
        weights, config = convert_weights(read_weights(file), settings)
        validate_config(TrainConfig(model=config))
        check_size(config)
        net = GPT(config)
        copy_weights(net, weights)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"{file}: does not fit its config.json ({error!r:.200})") from None
    try:
        return assemble_model(ours, file, net)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{folder / OURS}: damaged ({error!r:.200})") from None


def assemble_model(ours: dict[str, Any], file: Path, net: GPT) -> LoadedModel:
    """The model with what is told of it beside its weights; raises whatever that provokes."""
    config = net.config
    tokenizer = load_tokenizer(ours["tokenizer"]) if ours else GPT2Tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"it has {config.vocab_size:,} tokens, its tokenizer {tokenizer.vocab_size:,}"
        )
    data = {"eot_first": bool(ours.get("eot_first", False)), **dict(ours.get("data", {}))}
    if data.get("task") == "instructions" and data["template"] not in TEMPLATES:
        raise ValueError("no template of gptlab's")
    if (window := ours.get("window")) is not None:
        if not 1 <= int(window) <= config.context_length:
            raise ValueError(f"a window of {window}")
        config.trained_length = int(window)
    net.eval()
    stored = {"model": vars(config), "data": data}
    return LoadedModel(
        file, net, tokenizer, stored, int(ours.get("step", 0)), data["eot_first"], {}
    )


def convert_weights(
    weights: dict[str, Tensor], settings: dict[str, Any] | None
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights under our names, and the model that they are of; raises UserError."""
    if settings and settings.get("model_type") == "llama":
        ours = llama.from_llama(weights)
        return ours, llama.config_from_llama(ours, settings)
    ours = gpt2.from_gpt2(weights)
    return ours, gpt2.config_from_gpt2(ours, settings)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The object in a small file, None if there is no file; raises UserError."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: holds no settings")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .bin file; raises UserError for any other content."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign or broken file provokes in the reader
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"truncated, or no file of weights ({reason})") from None
    tensors = isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors:
        raise UserError("holds more than tensors, or none")
    return content


def copy_weights(net: GPT, weights: dict[str, Tensor]) -> None:
    """Copies weights under our names; before any is, raises UserError that names every one that is
    missing, left over, or of another shape."""
    wanted = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
    there = {name: tuple(weight.shape) for name, weight in weights.items()}
    faults = [f"no {name}" for name in wanted if name not in there]
    faults += [f"{name} is left over" for name in there if name not in wanted]
    faults += [
        f"{name} is {there[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in there and there[name] != shape
    ]
    if faults:
        more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise UserError(f"its weights are not a GPT-2's: {'; '.join(faults[:12])}{more}")
    net.load_state_dict(weights)
