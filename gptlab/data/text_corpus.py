"""Build a corpus from text documents in two passes over the source.

The first pass reads everything, so that an error in the last file is found before anything is
written; it collects lengths, hashes and the vocabulary. The second pass tokenizes the streamed text
on all cores. Memory use is a few MB plus vocabulary counts and 16 bytes per document.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptlab.config.schema import DataConfig
from gptlab.data.corpus import SplitWriter, write_corpus_files
from gptlab.data.mojibake import repair_mojibake
from gptlab.data.sources import TextSource
from gptlab.data.splits import DEFAULT_SPLIT, NOTHING_HELD_OUT, DocumentScan, SplitRule
from gptlab.data.tokenizer import Tokenizer
from gptlab.files.documents import END_OF_TEXT, TextChunk
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError

BATCH_CHARACTERS = 1 << 20  # characters to encode at once


def build_text_corpus(
    folder: Path,
    source: TextSource,
    data: DataConfig,
    train_tokenizer: Callable[[Iterable[str]], Tokenizer],
    seed: int,
    meta: dict[str, Any],
) -> None:
    """Write token files, document ends and metadata. Raises UserError."""
    scans = {split: DocumentScan() for split in source.splits}
    texts = (
        text for split, scan in scans.items() for text in scan_documents(source, split, data, scan)
    )
    tokenizer = train_tokenizer(texts)
    for _ in texts:  # a tokenizer that needs no training has not read them
        pass
    for split, scan in scans.items():
        if not scan.lengths:
            raise UserError(f"data.{'path' if split == 'train' else 'valid_path'} has no text")
    held_out = "valid" in scans or data.split > 0
    data = data if held_out else replace(data, split=DEFAULT_SPLIT)
    rule = SplitRule(scans, data, seed)
    writers = write_token_files(folder, source, rule, data, tokenizer)
    damage = sum(scan.mojibake for scan in scans.values())
    meta = meta | {
        "split_rule": rule.description + ("" if held_out else NOTHING_HELD_OUT),
        "mojibake": damage,
        "repaired": data.repair_encoding,
        "duplicates_across_splits": rule.count_duplicate_documents(),
        "best_possible": source_entropy(source, writers),
        "read": source.report.lines(),
    }
    write_corpus_files(folder, writers, tokenizer, meta)
    if damage and not data.repair_encoding:
        print_status(
            f"damaged encoding such as â€œ in {damage:,} places; "
            "set data.repair_encoding=true to repair it"
        )


def clean_chunks(
    source: TextSource, name: str, config: DataConfig, scan: DocumentScan | None = None
) -> Iterator[TextChunk]:
    """Yield a split's chunks as the corpus stores them.

    Drops white space around documents and empty documents, counts damaged encoding and repairs it
    on request, and stops after `max_samples` documents of "train".
    """
    limit = config.max_samples if name == "train" else None
    count, starts_document = 0, True
    for text, ends_document in source.read_chunks(name):
        if scan is not None or config.repair_encoding:
            repaired, damage = repair_mojibake(text)
            text = repaired if config.repair_encoding else text
            if scan is not None:
                scan.mojibake += damage
        # With data.document_boundary=line or file this mark is no boundary and must not become one.
        text = text.replace(END_OF_TEXT, "\n") if END_OF_TEXT in text else text
        text = text.lstrip() if starts_document else text
        text = text.rstrip() if ends_document else text
        if starts_document and not text:
            continue
        yield TextChunk(text, ends_document)
        starts_document = ends_document
        count += ends_document
        if count == limit:
            return


def scan_documents(
    source: TextSource, name: str, config: DataConfig, scan: DocumentScan
) -> Iterator[str]:
    """Record each document's length and hash while passing the text on to the tokenizer."""
    length, content = 0, blake2b(digest_size=8)
    for text, ends_document in clean_chunks(source, name, config, scan):
        length += len(text)
        content.update(text.encode())
        if ends_document:
            scan.lengths.append(length)
            scan.hashes.append(int.from_bytes(content.digest(), "little"))
            length, content = 0, blake2b(digest_size=8)
        yield text


def source_entropy(source: TextSource, writers: dict[str, SplitWriter]) -> dict[str, Any] | None:
    """Return the best possible loss in nats: expected per document, and of each held-out split."""
    if (entropy := source.entropy()) is None:
        return None
    nats = {name: writer.negative_log_likelihoods for name, writer in writers.items()}
    held_out = {name: sum(values) for name, values in nats.items() if values}
    return {"entropy_per_document": entropy, "negative_log_likelihood": held_out}


class TextBatch(NamedTuple):
    """Texts of one split to encode at once; the last one may continue in the next batch."""

    split: str
    texts: list[str]
    ends_document: bool


def write_token_files(
    folder: Path, source: TextSource, rule: SplitRule, data: DataConfig, tokenizer: Tokenizer
) -> dict[str, SplitWriter]:
    """Encode batches on all cores and write them in order."""
    from tqdm import tqdm

    workers = os.cpu_count() or 1
    own_splits = source.splits
    names = dict.fromkeys(["train", rule.held_out_split, *own_splits] if data.split else own_splits)
    writers = {name: SplitWriter(folder, name, tokenizer) for name in names}
    total = sum(sum(scan.lengths) for scan in rule.scans.values())
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, unit="B", unit_scale=True, desc="tokenizing", disable=None) as bar,
    ):
        for name in own_splits:
            # The limit covers the training documents and what is held out of them.
            limit = data.max_tokens if name == "train" and data.max_tokens else math.inf
            pending: deque[tuple[TextBatch, Future[np.ndarray]]] = deque()
            tokens, batches = 0, text_batches(source, name, rule, data)
            while tokens < limit:
                for batch in islice(batches, 2 * workers - len(pending)):
                    pending.append((batch, pool.submit(encode_batch, batch, tokenizer)))
                if not pending:
                    break
                batch, future = pending.popleft()
                encoded, writer = future.result(), writers[batch.split]
                writer.add(encoded, len("".join(batch.texts).encode()))
                if batch.split != "train":
                    nats = map(source.negative_log_likelihood, batch.texts)
                    writer.negative_log_likelihoods += [n for n in nats if n is not None]
                bar.update(sum(map(len, batch.texts)))
                tokens += len(encoded)
            wait([future for _, future in pending])
    return writers


def text_batches(
    source: TextSource, name: str, rule: SplitRule, data: DataConfig
) -> Iterator[TextBatch]:
    """Group the texts of one of the source's splits into batches of about BATCH_CHARACTERS."""
    # A limit on tokens takes effect at the end of a batch.
    limit = min(BATCH_CHARACTERS, data.max_tokens or BATCH_CHARACTERS)
    texts: dict[str, list[str]] = {}
    size = 0
    for split, (text, ends_document) in rule.assign(name, clean_chunks(source, name, data)):
        texts.setdefault(split, []).append(text)
        size += len(text)
        if size >= limit or not ends_document:
            # Held-out texts first: a limit on tokens may stop after the training part.
            for each in sorted(texts, key="train".__eq__):
                yield TextBatch(each, texts[each], ends_document or each != split)
            texts, size = {}, 0
    for split, rest in texts.items():
        yield TextBatch(split, rest, True)


def encode_batch(batch: TextBatch, tokenizer: Tokenizer) -> np.ndarray:
    tokens = tokenizer.encode_documents(batch.texts)
    return tokens if batch.ends_document else tokens[:-1]  # no end-of-text before the next batch
