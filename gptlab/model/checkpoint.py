"""Checkpoints read so that nothing in them is executed: tensors and plain values, checked."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from gptlab.config.schema import FinetuneConfig, ModelConfig, TrainConfig
from gptlab.config.validation import validate_config
from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.model.gpt import GPT
from gptlab.model.hf import gpt2
from gptlab.model.lora import add_lora, merge_lora
from gptlab.model.size import check_size
from gptlab.utils.errors import UserError


@dataclass
class LoadedModel:
    """A model that can write: net, tokenizer, and what its run was."""

    path: Path
    net: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]
    step: int
    eot_first: bool  # whether its texts begin with end-of-text
    metadata: dict[str, Any]


def load_checkpoint(path: Path) -> LoadedModel:
    """The model in a checkpoint file; raises UserError for any file that is not one of ours.

    Only tensors and plain values are unpickled; a file that asks for more is refused unexecuted.
    """
    content = read_checkpoint(path, mmap=True)  # of the optimizer's state nothing is needed
    missing = [k for k in ("state_dict", "config", "tokenizer", "global_step") if k not in content]
    if missing:
        raise UserError(f"{path}: not a checkpoint of gptlab's (it has no {', '.join(missing)})")
    try:
        tokenizer = load_tokenizer(content["tokenizer"])
        net = build_net(content["config"]["model"])
        weights = {
            key.removeprefix("net."): value
            for key, value in content["state_dict"].items()
            if key.startswith("net.")
        }
        finetune = content["config"].get("finetune", {})  # older files have none
        add_lora(net, config_from_stored(FinetuneConfig, finetune))
        net.load_state_dict(weights)
        merge_lora(net)
        if tokenizer.vocab_size > net.config.vocab_size:
            raise ValueError("the tokenizer has more tokens than the model")
        step = int(content["global_step"])
        eot_first = bool(content["config"]["data"]["eot_first"])
        facts = dict(content.get("gptlab", {}))
    except Exception as error:  # whatever a foreign content provokes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its parts do not fit together ({reason})") from None
    net.eval()
    return LoadedModel(path, net, tokenizer, content["config"], step, eot_first, facts)


def read_checkpoint(path: Path, mmap: bool = False) -> Mapping[str, Any]:
    """The plain content of a checkpoint file; raises UserError, see `load`.

    With `mmap` tensors stay on disk until they are looked at.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint")
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a foreign or broken file provokes in the reader
        if "Unsupported" in str(error):
            raise UserError(
                f"{path}: refused: it holds more than tensors and plain values, and opening it "
                "could run foreign code"
            ) from None
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: truncated, or not a checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of gptlab's")
    return content


def read_lora_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What LoRA added to a model, under the names of the PEFT library, and its settings.

    Raises UserError for a checkpoint without, or a model whose matrices PEFT could not find.
    """
    content = read_checkpoint(path)
    try:
        finetune = content["config"]["finetune"]
        config = ModelConfig(**content["config"]["model"])
        rank, alpha = int(finetune["lora_rank"] or 0), float(finetune["lora_alpha"])
        base = config.pretrained or content["config"]["init_from"]
        added = {
            key.removeprefix("net."): weight
            for key, weight in content["state_dict"].items()
            if key.endswith((".lora_up", ".lora_down")) and isinstance(weight, Tensor)
        }
        others = [p for p in finetune["trainable"] if "lora_" not in p]
        if not isinstance(base, str | None):
            raise TypeError("its model has no name")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its parts do not fit together ({error!r:.200})") from None
    if not added:
        raise UserError(f"{path}: was trained without LoRA; export it whole, without adapter=true")
    if config.n_classes:
        raise UserError(f"{path}: a classifier's head is no part of an adapter, and would be lost")
    if others:
        raise UserError(
            f"{path}: not only additions were trained, {', '.join(others)} too; export it whole"
        )
    return gpt2.to_peft(added, config, rank, alpha, base)


def build_net(config: Mapping[str, Any]) -> GPT:
    """The decoder of a stored configuration; raises whatever an impossible one provokes."""
    wanted = config_from_stored(ModelConfig, config)
    validate_config(TrainConfig(model=wanted))
    check_size(wanted)
    return GPT(wanted)


def config_from_stored(schema: type, config: Mapping[str, Any]) -> Any:
    """A stored configuration, typed; raises ValueError where it refers to anything outside of it,
    and whatever OmegaConf does for values of the wrong kind."""
    if "${" in str(dict(config)):
        raise ValueError("a setting refers to something else")
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(config)))


def verify_checkpoint(path: Path) -> None:
    """Raises UserError unless every part of the file agrees with the checksum stored beside it.

    A checkpoint is a zip archive of uncompressed parts, each with its CRC-32; torch itself does
    not compare them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise UserError(f"{path}: refused: a checkpoint's parts are never compressed")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise UserError(f"{path}: refused: its parts are larger than the file")
            damaged = archive.testzip()
    except UserError:
        raise
    except Exception:  # whatever a damaged file provokes in zipfile
        raise UserError(f"{path}: truncated, or not a checkpoint") from None
    if damaged:
        raise UserError(f"{path}: damaged: {damaged} does not agree with its checksum")
