"""The making of a corpus: scan the documents, decide their splits, tokenise, write.

A corpus is a folder under `corpus_root`, named by a hash of all that decides its content: it is
built once, in a temporary folder that is renamed when complete, and found again afterwards.

Two passes over the source. The first reads all of it, so that a flaw in the last file is found
before anything is written; it collects lengths, hashes and the vocabulary. The second encodes on
all cores (tiktoken leaves Python's lock) while documents stream by. Memory holds a few megabytes of
text however long it is, the vocabulary's counts, and 16 bytes a document.
"""

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.corpus import Corpus, SplitWriter, write_corpus_files
from gptlab.data.readers import Piece, repair_mojibake
from gptlab.data.record_splits import build_record_corpus
from gptlab.data.records import RecordSource, make_record_source
from gptlab.data.sources import Source, make_source
from gptlab.data.splits import Scan, SplitRule
from gptlab.data.tokenizer import SEPARATOR, Tokenizer, build_tokenizer, fingerprint
from gptlab.utils.atomic_io import atomic_folder
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

CORPUS_FORMAT = 3  # raised when what a corpus folder holds changes
BATCH_CHARACTERS = 1 << 20  # characters encoded at once


def open_corpus(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    seed: int,
    corpus_root: str,
    every_block: bool = False,
    given: Tokenizer | None = None,
) -> Corpus:
    """The corpus of this configuration: found, or built now.

    With the tokenizer `given`, if one is: a model that is trained on keeps its vocabulary.
    Raises UserError for sources that cannot be read; then nothing is left on disk.
    """
    root = Path(corpus_root).expanduser()
    source = (
        make_source(data, seed, root) if data.task == "text" else make_record_source(data, root)
    )
    names = IDENTITY_KEYS if data.task == "text" else (*IDENTITY_KEYS, *RECORD_IDENTITY_KEYS)
    decisive = {name: getattr(data, name) for name in names}
    if data.task != "text":
        decisive["dealt"] = RECORD_SPLIT_VERSION
    name, by = tokenizer.name, asdict(tokenizer)
    if given is not None:
        name, by = given.state()["name"], fingerprint(given)
    key = [CORPUS_FORMAT, source.identity(), by, decisive, seed]
    digest = sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = root / f"{corpus_name(data)}-{name}-{digest[:12]}"

    def vocabulary(texts: Iterable[str]) -> Tokenizer:
        return given or build_tokenizer(tokenizer, texts)

    if folder.exists():
        try:
            return Corpus(folder, every_block)
        except UserError as error:
            if every_block:
                raise UserError(f"{error}; remove the folder to have it built anew") from None
            print_status(f"{error}: building this corpus anew")
            shutil.rmtree(folder)
    with atomic_folder(folder) as building:
        if isinstance(source, RecordSource):
            build_record_corpus(building, source, data, vocabulary, seed, {"key": key})
        else:
            build_corpus(building, source, data, vocabulary, seed, {"key": key})
    return Corpus(folder, every_block)


# Settings that change which documents a corpus holds, and in which split.
IDENTITY_KEYS = (
    *("text_column", "documents", "repair_encoding", "max_samples", "max_tokens"),
    *("subset", "split", "split_by"),
)
RECORD_SPLIT_VERSION = 2  # raised when dealing.py would deal the same records otherwise
RECORD_IDENTITY_KEYS = ("task", "test_split", "balance", "template")


def corpus_name(data: DataConfig) -> str:
    if data.path is not None:
        first = data.path if isinstance(data.path, str) else str(data.path[0])
        return Path(first).resolve().name.split(".")[0] or "text"
    return Path(data.hub).name if data.source == "hub" and data.hub else data.source


def clean_pieces(
    source: Source, name: str, config: DataConfig, scan: Scan | None = None
) -> Iterator[Piece]:
    """A split's pieces as they are kept: white space round documents and empty documents dropped,
    encoding damage counted and, on request, mended, of "train" at most `max_samples` documents."""
    most = config.max_samples if name == "train" else None
    count, start = 0, True
    for text, whole in source.pieces(name):
        if scan is not None or config.repair_encoding:
            mended, damage = repair_mojibake(text)
            if scan is not None:
                scan.mojibake += damage
            text = mended if config.repair_encoding else text
        # In `line` and `file` documents the mark is not a boundary, and must not become one.
        text = text.replace(SEPARATOR, "\n") if SEPARATOR in text else text
        text = text.lstrip() if start else text
        text = text.rstrip() if whole else text
        if start and not text:
            continue
        yield text, whole
        start = whole
        count += whole
        if count == most:
            return


def scan_documents(source: Source, name: str, config: DataConfig, scan: Scan) -> Iterator[str]:
    """Passes the text on (to the vocabulary's making) and notes lengths and hashes as it goes."""
    length, content = 0, blake2b(digest_size=8)
    for text, whole in clean_pieces(source, name, config, scan):
        length += len(text)
        content.update(text.encode())
        if whole:
            scan.lengths.append(length)
            scan.hashes.append(int.from_bytes(content.digest(), "little"))
            length, content = 0, blake2b(digest_size=8)
        yield text


def build_corpus(
    folder: Path,
    source: Source,
    data: DataConfig,
    vocabulary: Callable[[Iterable[str]], Tokenizer],
    seed: int,
    meta: dict[str, Any],
) -> None:
    """Writes token files, document ends and metadata into the folder. Raises UserError."""
    scans = {split: Scan() for split in source.splits}
    texts = (
        text for split, scan in scans.items() for text in scan_documents(source, split, data, scan)
    )
    tokenizer = vocabulary(texts)
    for _ in texts:  # a vocabulary that needs no training has not read them
        pass
    for split, scan in scans.items():
        if not scan.lengths:
            raise UserError(f"data.{'path' if split == 'train' else 'valid_path'}: holds no text")
    rule = SplitRule(scans, data, seed)
    writers = write_token_files(folder, source, rule, data, tokenizer)
    damage = sum(scan.mojibake for scan in scans.values())
    meta |= {
        "split_rule": rule.words,
        "mojibake": damage,
        "repaired": data.repair_encoding,
        "duplicates_across_splits": rule.duplicates(),
        "best_possible": best_possible(source, writers),
    }
    write_corpus_files(folder, writers, tokenizer, meta)
    if damage and not data.repair_encoding:
        print_status(
            f"encoding damage such as â€œ in {damage:,} places; data.repair_encoding=true mends it"
        )


def best_possible(source: Source, writers: dict[str, "SplitWriter"]) -> dict[str, Any] | None:
    """The least loss there can be, in nats: expected for a document, and of the held-out files."""
    entropy = source.entropy()
    if entropy is None:
        return None
    held = {name: sum(writer.nats) for name, writer in writers.items() if writer.nats}
    return {"entropy_per_document": entropy, "negative_log_likelihood": held}


def write_token_files(
    folder: Path, source: Source, rule: SplitRule, data: DataConfig, tokenizer: Tokenizer
) -> dict[str, SplitWriter]:
    """The second pass: encodes batches on all cores and writes them in order."""
    from tqdm import tqdm

    workers = os.cpu_count() or 1
    names = dict.fromkeys(["train", rule.held, *source.splits] if data.split else source.splits)
    writers = {name: SplitWriter(folder, name, tokenizer) for name in names}
    total = sum(sum(scan.lengths) for scan in rule.scans.values())
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, unit="B", unit_scale=True, desc="tokenising", disable=None) as bar,
    ):
        for name in source.splits:
            # The limit is on what the source gives to train on and to hold out of it.
            most = data.max_tokens if name == "train" and data.max_tokens else math.inf
            pending: deque[Future] = deque()
            tokens, stream = 0, encode_batches(source, name, rule, data)
            while tokens < most:
                for batch in islice(stream, 2 * workers - len(pending)):
                    pending.append(pool.submit(encode_batch, batch, source, tokenizer))
                if not pending:
                    break
                split, ids, characters, text_bytes, nats = pending.popleft().result()
                writers[split].add(ids, text_bytes, nats)
                bar.update(characters)
                tokens += len(ids)
            wait(pending)
    return writers


Batch = tuple[str, list[str], bool]  # split, documents, whether the last one is whole


def encode_batches(source: Source, name: str, rule: SplitRule, data: DataConfig) -> Iterator[Batch]:
    """The pieces of one of the source's splits, in batches of about BATCH characters."""
    most = min(
        BATCH_CHARACTERS, data.max_tokens or BATCH_CHARACTERS
    )  # a limit on tokens ends with a batch
    held: dict[str, list[str]] = {}
    size = 0
    for split, text, whole in rule.assign(name, clean_pieces(source, name, data)):
        held.setdefault(split, []).append(text)
        size += len(text)
        if size >= most or not whole:
            # What is held out first: a limit may end with the training part.
            for each in sorted(held, key="train".__eq__):
                yield each, held[each], whole or each != split
            held, size = {}, 0
    for split, texts in held.items():
        yield split, texts, True


def encode_batch(
    batch: Batch, source: Source, tokenizer: Tokenizer
) -> tuple[str, np.ndarray, int, int, list[float]]:
    split, texts, whole = batch
    tokens = tokenizer.encode_documents(texts)
    if not whole:  # the document goes on in the next batch
        tokens = tokens[:-1]
    nats = [source.nats(text) for text in texts] if split != "train" else []
    text_bytes = len("".join(texts).encode())
    known = [value for value in nats if value is not None]
    return split, tokens, sum(map(len, texts)), text_bytes, known
