"""Open the corpus of a configuration, or build it first.

A corpus is a folder in `corpus_root`, named by a hash of everything that decides its content. It
is built once, in a temporary folder that is renamed when complete.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.corpus import Corpus
from gptlab.data.record_corpus import build_record_corpus
from gptlab.data.records import RecordSource, make_record_source
from gptlab.data.sources import make_text_source
from gptlab.data.text_corpus import build_text_corpus
from gptlab.data.tokenizer import Tokenizer, build_tokenizer, fingerprint
from gptlab.utils.atomic_io import atomic_folder
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

CORPUS_FORMAT = 4  # raise when the content of a corpus folder changes
# Keys that change which documents a corpus has, and in which split.
IDENTITY_KEYS = (
    "text_column document_boundary repair_encoding max_samples max_tokens subset split split_by"
).split()
RECORD_IDENTITY_KEYS = [*IDENTITY_KEYS, "task", "test_split", "balance_classes", "template"]

READER_KEYS = ["format", "encoding", "label_column"]  # part of a corpus's identity if they are set


def open_corpus(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    seed: int,
    corpus_root: str,
    verify_all: bool = False,
    tokenizer_override: Tokenizer | None = None,
) -> Corpus:
    """Open the corpus of this configuration, or build it.

    `tokenizer_override` replaces the configured tokenizer: a model to finetune keeps its own.
    Raises UserError if a source cannot be read; then nothing is left on disk.
    """
    root = Path(corpus_root).expanduser()
    is_text = data.task == "text"
    source = make_text_source(data, seed, root) if is_text else make_record_source(data, root)
    names = IDENTITY_KEYS if is_text else RECORD_IDENTITY_KEYS
    settings = {name: getattr(data, name) for name in names}
    settings |= {name: value for name in READER_KEYS if (value := getattr(data, name)) is not None}
    encoding = fingerprint(tokenizer_override) if tokenizer_override else asdict(tokenizer)
    key = [CORPUS_FORMAT, source.identity(), encoding, settings, seed]
    digest = sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    tokenizer_name = tokenizer_override.name if tokenizer_override else tokenizer.name
    name = f"{source_name(data)}-{tokenizer_name}".replace(":", ".")  # package.module:Name
    folder = root / f"{name}-{digest[:12]}"
    if folder.exists():
        try:
            return Corpus(folder, verify_all)
        except UserError as error:
            if verify_all:
                raise UserError(f"{error}; remove the folder to rebuild it") from None
            print_status(f"{error}: rebuilding this corpus")
            shutil.rmtree(folder)

    def train_tokenizer(documents: Iterable[str]) -> Tokenizer:
        return tokenizer_override or build_tokenizer(tokenizer, documents)

    with atomic_folder(folder) as temporary:
        if isinstance(source, RecordSource):
            build_record_corpus(temporary, source, data, train_tokenizer, seed, {"key": key})
        else:
            build_text_corpus(temporary, source, data, train_tokenizer, seed, {"key": key})
    return Corpus(folder, verify_all)


def source_name(data: DataConfig) -> str:
    if data.path is not None:
        first = data.path if isinstance(data.path, str) else str(data.path[0])
        name = Path(first).resolve().name.split(".")[0][:60]
        # Replace wildcards, characters that Windows refuses, and line ends.
        kept = (c if c.isprintable() and c not in '<>:"/\\|?*[]' else "\n" for c in name)
        return "".join(kept).strip("\n").replace("\n", "_") or "text"
    return Path(data.hub).name if data.source == "hub" and data.hub else data.source
