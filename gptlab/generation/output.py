"""`save=NAME`: the texts in NAME.txt, and in NAME.json how they came about."""

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
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError


def output_paths(name: str) -> tuple[Path, Path]:
    path = Path(name).expanduser()
    base = path.with_suffix("") if path.suffix in (".txt", ".json") else path
    return base.with_name(f"{base.name}.txt"), base.with_name(f"{base.name}.json")


def numbered_path(name: str, number: int) -> str:
    """The name for one of several: out.txt becomes out_1.txt."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}_{number}{path.suffix}"))


def check_output_path(name: str) -> None:
    """Raises UserError, before anything is done, where the files could not be kept."""
    if Path(name).name in ("", "..") or name.endswith("/"):
        raise UserError(f"save={name}: is no name for a file")
    try:
        folder = output_paths(name)[0].parent
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"save={name}: nothing can be written in {there}")
        for place in output_paths(name):
            if place.is_dir():
                raise UserError(f"save={name}: {place} is a folder")
    except (OSError, RuntimeError) as error:  # a name too long, a folder that is locked, ~nobody
        raise UserError(f"save={name}: {getattr(error, 'strerror', error)}") from None


def save_samples(
    config: GenerateConfig, model: LoadedModel, prompt: str, samples: list[Sample]
) -> None:
    """Each file appears whole, in the place of one from before.

    Raises UserError where the disk is full or the folder has gone.
    """
    text, table = output_paths(config.save)
    content = {
        "checkpoint": str(model.path),
        "step": model.step,
        "prompt": prompt,
        "settings": asdict(config),
        "samples": [sample_to_json(sample, model) for sample in samples],
    }
    texts = "\n\n".join(prompt + sample.text for sample in samples) + "\n"
    for place, whole in ((text, texts), (table, json.dumps(content, indent=1) + "\n")):
        new = place.with_name(f".{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(whole, encoding="utf-8")
            new.replace(place)
        except OSError as error:
            raise UserError(f"save={config.save}: {error.strerror}") from None
        finally:
            new.unlink(missing_ok=True)
    print_status(f"saved as {text} and {table}")


def sample_to_json(sample: Sample, model: LoadedModel) -> dict[str, Any]:
    """A sample with each token's probability under the model, before any sampling setting."""
    pairs = zip(sample.predicted_tokens, sample.logprobs, strict=False)  # none after Ctrl-C
    tokens = [
        {"id": token, "text": decode(model.tokenizer, [token]), "probability": math.exp(logprob)}
        for token, logprob in pairs
    ]
    return {
        "text": sample.text,
        "ended": sample.finish_reason,
        "nats_per_token": -sample.mean_logprob,
        "tokens": tokens,
    }
