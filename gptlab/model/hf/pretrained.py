"""Load models that others trained, in GPT-2's or Llama's format: from a folder, a file, or the hub.

No code in such a file can run: safetensors contain only tensors, and of a .bin file only tensors
are unpickled.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.config.schema import ModelConfig
from gptlab.data.prompt_templates import PROMPT_TEMPLATES
from gptlab.data.sources import require_network
from gptlab.data.tokenizer import GPT2Tokenizer, load_tokenizer
from gptlab.model.checkpoint import LoadedModel, build_net, load_checkpoint
from gptlab.model.gpt import GPT
from gptlab.model.hf import gpt2, llama
from gptlab.utils.console import plural
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.plugins import resolve_choice
from gptlab.utils.run_dir import WEIGHT_FILES, is_weights_path

INDEX_SUFFIX = ".index.json"
GPTLAB_FILE = "gptlab.json"  # in an exported folder: tokenizer, step and data settings
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
OFFLINE_HINT = "use a local copy: model.pretrained=FOLDER, or random weights: =null"


def load_model(path: Path) -> LoadedModel:
    """Load a checkpoint, or a folder or file of pretrained weights; raise UserError."""
    return load_pretrained(path) if is_weights_path(path) else load_checkpoint(path)


def resolve_pretrained(name: str) -> Path:
    """Return the local path that `model.pretrained` names, downloading from the hub if needed.

    Raises UserError if there is neither a file nor a hub model of that name.
    """
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (RuntimeError, OSError) as error:
        raise UserError(f"model.pretrained={name:.200}: {error!s:.200}") from None
    if exists:
        if is_weights_path(path):
            return path
        files = ", ".join(WEIGHT_FILES)
        raise UserError(f"model.pretrained={name} has no weights (looked for {files})")
    if not HUB_NAME.fullmatch(name) or name.endswith((".safetensors", ".bin", ".json")):
        hint = did_you_mean(path.name, [sibling.name for sibling in path.parent.glob("*")])
        raise UserError(f"model.pretrained={name}: no such file or folder{hint}")
    return download_pretrained(name)


def download_pretrained(name: str) -> Path:
    """Return a hub model's folder in the local cache; download or resume it if incomplete.

    HF_ENDPOINT names a mirror, HF_HOME another cache. Raises UserError.
    """
    from huggingface_hub import errors, hf_hub_download

    def get(file: str, local_files_only: bool = False) -> Path:
        path = hf_hub_download(name, file, local_files_only=local_files_only)
        return check_sha256(Path(path))

    def get_weights(file: str, local_files_only: bool = False) -> Path:
        path = get(file, local_files_only)
        for shard in shard_names(path) if path.name.endswith(INDEX_SUFFIX) else ():
            get(shard, local_files_only)
        return path.parent

    for file in WEIGHT_FILES:
        with contextlib.suppress(errors.LocalEntryNotFoundError, OSError, ValueError):
            get("config.json", local_files_only=True)
            return get_weights(file, local_files_only=True)
    require_network(name, "model.pretrained", OFFLINE_HINT)
    try:
        get("config.json")
        for file in WEIGHT_FILES[:-1]:
            with contextlib.suppress(errors.EntryNotFoundError):
                return get_weights(file)
        return get_weights(WEIGHT_FILES[-1])
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        if isinstance(error, errors.EntryNotFoundError | errors.RepositoryNotFoundError):
            reason = "the hub has no such model, or no weights in a readable format"
        problem = f"model.pretrained={name}: cannot be downloaded ({reason})"
        raise UserError(f"{problem}; {OFFLINE_HINT}") from None


def check_sha256(path: Path) -> Path:
    """Raise UserError unless the file's SHA-256 is its name in the hub's cache; return the path."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                raise UserError(f"{blob}: damaged (its hash differs); delete it to download again")
    return path


def load_pretrained(path: Path) -> LoadedModel:
    """Load a folder as transformers saves it, or its file of weights.

    Raises UserError for missing, unexpected or misshapen weights, or an unsupported model.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else next(p for n in WEIGHT_FILES if (p := path / n).is_file())
    settings = read_json_object(folder / "config.json")
    exported = read_json_object(folder / GPTLAB_FILE) or {}
    problem = f"{file}: does not fit its config.json"
    try:
        weights, config = convert_weights(read_weights(file), settings)
        net = build_net(config)
        copy_weights(net, weights)
        problem = f"{folder / GPTLAB_FILE}: damaged"
        return assemble_model(net, file, exported)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise UserError(f"{problem} ({error!r:.200})") from None


def assemble_model(net: GPT, file: Path, exported: dict[str, Any]) -> LoadedModel:
    """Combine the net with its tokenizer; invalid content of gptlab.json may raise anything.

    `exported` is that content, empty for a model that gptlab did not export.
    """
    config = net.config
    tokenizer = load_tokenizer(exported["tokenizer"]) if exported else GPT2Tokenizer()
    vocab_size = net.embedding.num_embeddings
    if (tokens := tokenizer.vocab_size) > vocab_size:
        raise UserError(
            f"its tokenizer has {plural(tokens, 'token')}, the model only {vocab_size:,}"
        )
    data = {"eot_first": bool(exported.get("eot_first", False)), **dict(exported.get("data", {}))}
    if data.get("task") == "instructions":
        resolve_choice("data.template", str(data["template"]), PROMPT_TEMPLATES)
    if (window := exported.get("window")) is not None:
        if not 1 <= int(window) <= config.context_length:
            raise ValueError(f"window={window} must be from 1 to {config.context_length}")
        config.trained_length = int(window)
    net.eval()
    stored, step = {"model": vars(config), "data": data}, int(exported.get("step", 0))
    return LoadedModel(file, net, tokenizer, stored, step, data["eot_first"], {})


def convert_weights(
    weights: dict[str, Tensor], settings: dict[str, Any] | None
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Convert weights to gptlab's names, and derive the model's config; raise UserError."""
    if settings and settings.get("model_type") == "llama":
        converted = llama.from_llama(weights)
        return converted, llama.config_from_llama(converted, settings)
    converted = gpt2.from_gpt2(weights)
    return converted, gpt2.config_from_gpt2(converted, settings)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None if there is no file; raise UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: is not a JSON object")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .bin file, or of all files that an index lists.

    Raises UserError for other content, or a missing file.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return read_shards(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted or broken file may raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"truncated, or not a file of weights ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError("contains other things than tensors")
    return content


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that hold an index's weights; raise UserError if damaged."""
    weight_map = (read_json_object(index) or {}).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index}: damaged: lists no files of weights")
    return sorted(set(names))


def read_shards(index: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in shard_names(index):
        shard = index.with_name(name)
        if not shard.is_file() or shard.suffix not in (".safetensors", ".bin"):
            raise UserError(f"{name} is missing, a file of weights that the index lists")
        try:
            weights |= read_weights(shard)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return weights


def copy_weights(net: GPT, weights: dict[str, Tensor]) -> None:
    """Copy weights into the net, after comparing all names and shapes.

    Raises UserError that lists every missing, unexpected or misshapen weight.
    """
    expected = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
    actual = {name: tuple(weight.shape) for name, weight in weights.items()}
    faults = [f"{name} is missing" for name in expected if name not in actual]
    faults += [f"{name} is unexpected" for name in actual if name not in expected]
    wrong = {name: shape for name, shape in actual.items() if shape != expected.get(name, shape)}
    faults += [f"{name} has shape {s}, not {expected[name]}" for name, s in wrong.items()]
    if faults:
        more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise UserError(f"its weights do not fit: {'; '.join(faults[:12])}{more}")
    net.load_state_dict(weights)
