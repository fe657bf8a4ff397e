"""Save generated texts: `save_as=NAME` writes NAME.txt, and NAME.json with settings and tokens."""

import contextlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptlab.config.schema import GenerateConfig
from gptlab.data.tokenizer import decode
from gptlab.generation.sample import Sample
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError


def output_paths(name: str) -> tuple[Path, Path]:
    path = Path(name).expanduser()
    base = path.with_suffix("") if path.suffix in (".txt", ".json") else path
    return base.with_name(f"{base.name}.txt"), base.with_name(f"{base.name}.json")


def numbered_path(name: str, number: int) -> str:
    """Insert a number before the extension: out.txt becomes out_1.txt."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}_{number}{path.suffix}"))


def check_output_path(name: str) -> None:
    """Raise UserError if the files could not be written, before anything is generated."""
    if Path(name).name in ("", "..") or name.endswith(("/", os.sep)):
        raise UserError(f"save_as={name} is not a file name")
    try:
        folder = output_paths(name)[0].parent
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UserError(f"save_as={name} cannot be written: no access to {existing}")
        for path in output_paths(name):
            with contextlib.suppress(FileNotFoundError):
                path.stat()  # raises for a name too long; is_dir() does not on Python 3.14
            if path.is_dir():
                raise UserError(f"save_as={name}: {path} is a folder")
    except (OSError, RuntimeError) as error:  # a name too long, a locked folder, ~unknown_user
        raise UserError(f"save_as={name}: {getattr(error, 'strerror', error)}") from None


def save_samples(
    config: GenerateConfig, model: LoadedModel, prompt: str, samples: list[Sample]
) -> None:
    """Write both files, replacing earlier ones; raise UserError if the disk is full or gone."""
    assert config.save_as is not None
    text_path, json_path = output_paths(config.save_as)
    content = {
        "checkpoint": str(model.path),
        "step": model.step,
        "prompt": prompt,
        "settings": asdict(config),
        "samples": [sample_to_json(sample, model) for sample in samples],
    }
    texts = "\n\n".join(prompt + sample.text for sample in samples)
    files = {text_path.name: texts, json_path.name: json.dumps(content, indent=1)}
    try:
        text_path.parent.mkdir(parents=True, exist_ok=True)
        encoded = {name: f"{text}\n".encode() for name, text in files.items()}
        write_files_atomically(text_path.parent, encoded)
    except OSError as error:
        raise UserError(f"save_as={config.save_as}: {error.strerror}") from None
    print_status(f"saved {text_path} and {json_path}")


def sample_to_json(sample: Sample, model: LoadedModel) -> dict[str, Any]:
    """Describe a sample, with each token's probability before any sampling setting."""
    pairs = zip(sample.predicted_tokens, sample.logprobs, strict=False)  # none after Ctrl-C
    tokens = [
        {"id": token, "text": decode(model.tokenizer, [token]), "probability": math.exp(logprob)}
        for token, logprob in pairs
    ]
    return {
        "text": sample.text,
        "finish_reason": sample.finish_reason,
        "nats_per_token": -sample.mean_logprob,
        "tokens": tokens,
    }
