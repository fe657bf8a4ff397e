"""Checkpoints: written so that a crash leaves the old one, read so that nothing is executed."""

import contextlib
import errno
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.config import ModelConfig
from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.errors import UserError
from gptlab.model.gpt import GPT


class AtomicCheckpointIO(TorchCheckpointIO):
    """A temporary file in the same folder, flushed to disk, then renamed over the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with the cause only in its text
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if isinstance(error, RuntimeError) and "write" not in str(error):
                raise
            raise UserError(
                f"{path}: cannot be written, the disk is full; the checkpoint before it is kept; "
                "make room, or choose another disk with run_root="
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@dataclass
class Loaded:
    """A model that can write: net, tokenizer, and what its run was."""

    path: Path
    net: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]
    step: int
    facts: dict[str, Any]


def load(path: Path) -> Loaded:
    """The model in a checkpoint file; raises UserError for any file that is not one of ours.

    Only tensors and plain values are unpickled; a file that asks for more is refused unexecuted.
    """
    content = read(path)
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
        net.load_state_dict(weights)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its parts do not fit together ({reason})") from None
    net.eval()
    facts = content.get("gptlab", {})
    return Loaded(path, net, tokenizer, content["config"], int(content["global_step"]), facts)


def read(path: Path) -> Mapping[str, Any]:
    """The plain content of a checkpoint file; raises UserError, see `load`."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "weights_only" in str(error).lower():
            raise UserError(
                f"{path}: refused: it holds more than tensors and plain values, and opening it "
                "could run foreign code"
            ) from None
        raise UserError(f"{path}: not a checkpoint that can be read") from None
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: truncated, or not a checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of gptlab's")
    return content


def build_net(config: Mapping[str, Any]) -> GPT:
    """The decoder of a stored configuration, keys of which must be ModelConfig's."""
    known = {item.name for item in fields(ModelConfig)}
    if strange := set(config) - known:
        raise KeyError(f"unknown model keys {sorted(strange)}")
    return GPT(ModelConfig(**config))
