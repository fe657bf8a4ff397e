"""Read and verify checkpoints. Only tensors and plain values are unpickled; no code can run."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import OmegaConf
from torch import Tensor

from gptlab.config.keys import plugin_references
from gptlab.config.schema import FinetuneConfig, ModelConfig, TrainConfig
from gptlab.config.validation import validate_config
from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.model.gpt import GPT
from gptlab.model.hf import gpt2
from gptlab.model.lora import add_lora, merge_lora
from gptlab.model.size import check_size
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import PluginError, require_trust

Config = TypeVar("Config")


@dataclass
class LoadedModel:
    """A model ready to generate or evaluate, with its tokenizer and its run's config."""

    path: Path
    net: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]
    step: int
    eot_first: bool  # texts start with end-of-text
    metadata: dict[str, Any]  # what the run stored besides, such as class names


def load_checkpoint(path: Path) -> LoadedModel:
    """Load the model of a checkpoint file; raise UserError for any other or damaged file."""
    content = read_checkpoint(path, mmap=True)  # the optimizer's state is not needed
    missing = [k for k in ("state_dict", "config", "tokenizer", "global_step") if k not in content]
    if missing:
        raise UserError(f"{path}: not a gptlab checkpoint (it has no {', '.join(missing)})")
    try:
        model = config_from_stored(ModelConfig, content["config"]["model"])
        data = content["config"]["data"]
        template = data.get("template") if data.get("task") == "instructions" else ""
        require_trust([*plugin_references(model), content["tokenizer"].get("name"), template])
        tokenizer = load_tokenizer(content["tokenizer"])
        net = build_net(model)
        finetune = content["config"].get("finetune", {})
        add_lora(net, config_from_stored(FinetuneConfig, finetune))
        weights = {k: v for k, v in content["state_dict"].items() if k.startswith("net.")}
        net.load_state_dict({key.removeprefix("net."): value for key, value in weights.items()})
        merge_lora(net)
        if tokenizer.vocab_size > net.embedding.num_embeddings:
            raise ValueError("the tokenizer has more tokens than the model")
        step = int(content["global_step"])
        eot_first = bool(content["config"]["data"]["eot_first"])
        metadata = dict(content.get("gptlab", {}))
    except PluginError as error:
        raise PluginError(f"{path}: {error}") from None
    except Exception as error:  # untrusted content may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its parts do not fit together ({reason})") from None
    net.eval()
    return LoadedModel(path, net, tokenizer, content["config"], step, eot_first, metadata)


def read_checkpoint(path: Path, mmap: bool = False) -> Mapping[str, Any]:
    """Return the content of a checkpoint file; raise UserError for any other or damaged file.

    With `mmap`, tensors stay on disk until they are used.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # an untrusted or broken file may raise anything
        if "Unsupported" in str(error):
            raise UserError(
                f"{path}: refused: it contains more than tensors and plain values, and opening it "
                "could run foreign code"
            ) from None
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: truncated, or not a checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a gptlab checkpoint")
    return content


def read_lora_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's LoRA matrices and settings in the format of the PEFT library.

    Raises UserError for a checkpoint without LoRA, or a model that PEFT cannot open.
    """
    content = read_checkpoint(path)
    try:
        finetune = content["config"]["finetune"]
        config = ModelConfig(**content["config"]["model"])
        rank, alpha = int(finetune["lora_rank"] or 0), float(finetune["lora_alpha"])
        base = config.pretrained or content["config"]["init_from"]
        matrices = {
            key.removeprefix("net."): weight
            for key, weight in content["state_dict"].items()
            if key.endswith((".lora_up", ".lora_down")) and isinstance(weight, Tensor)
        }
        other_weights = [p for p in finetune["trainable"] if "lora_" not in p]
        if not isinstance(base, str | None):
            raise TypeError("its base model has no name")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its parts do not fit together ({error!r:.200})") from None
    hint = "export the whole model, without adapter=true"
    if not matrices:
        raise UserError(f"{path}: was trained without LoRA; {hint}")
    if config.n_classes:
        raise UserError(f"{path}: is a classifier, and an adapter cannot store its head")
    if other_weights:
        names = ", ".join(other_weights)
        raise UserError(f"{path}: weights outside of LoRA were trained too ({names}); {hint}")
    return gpt2.to_peft(matrices, config, rank, alpha, base)


def build_net(config: ModelConfig) -> GPT:
    """Build the decoder of an untrusted config; an invalid one may raise anything."""
    validate_config(TrainConfig(model=config))
    check_size(config)
    return GPT(config)


def config_from_stored(schema: type[Config], config: Mapping[str, Any]) -> Config:
    """Return a stored config as an instance of `schema`.

    Raises ValueError for interpolations, and OmegaConf's errors for values of the wrong type.
    """
    if "${" in str(dict(config)):
        raise ValueError("the config contains an interpolation")
    merged = OmegaConf.merge(OmegaConf.structured(schema), dict(config))
    return cast(Config, OmegaConf.to_object(merged))


def verify_checkpoint(path: Path) -> None:
    """Raise UserError unless every part of the file matches its checksum.

    A checkpoint is a zip archive of uncompressed parts with a CRC-32 each, which torch does not
    verify.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise UserError(f"{path}: refused: parts of a checkpoint are never compressed")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise UserError(f"{path}: refused: its parts are larger than the file")
            damaged = archive.testzip()
    except UserError:
        raise
    except Exception:  # a damaged file may raise anything in zipfile
        raise UserError(f"{path}: truncated, or not a checkpoint") from None
    if damaged:
        raise UserError(f"{path}: damaged: the checksum of {damaged} does not match")
