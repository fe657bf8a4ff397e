"""Corpora: documents round-trip, splits are disjoint, and a crash never leaves a bad corpus."""

import errno
import gzip
import json
import multiprocessing
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data import corpus as corpus_module
from gptlab.data import text_corpus
from gptlab.data.build import open_corpus, source_name
from gptlab.data.corpus import Corpus
from gptlab.data.mojibake import repair_mojibake
from gptlab.data.tokenizer import decode
from gptlab.data.toy.stories import story_grammar
from gptlab.files import decode as decoding
from gptlab.files import documents as reading
from gptlab.utils.errors import UserError
from gptlab.utils.system import peak_memory
from tests.conftest import posix_only

STORIES = [f"Story {i}: once there was a fox number {i * i}.\n\nIt was glad." for i in range(40)]
CHAR = TokenizerConfig(name="char")


def build(tmp_path: Path, path: object, tokenizer: TokenizerConfig = CHAR, **changes) -> Corpus:
    config = DataConfig(path=path if isinstance(path, list) else str(path), **changes)
    return open_corpus(config, tokenizer, seed=1, corpus_root=str(tmp_path / "corpora"))


def documents(corpus: Corpus, split: str) -> list[str]:
    return [decode(corpus.tokenizer, tokens) for tokens in corpus.documents(split)]


def all_documents(corpus: Corpus) -> list[str]:
    return [text for split in corpus.splits for text in documents(corpus, split)]


def write_file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_stories(tmp_path: Path, kind: str) -> Path:
    """Write the stories to a file of this format."""
    path = tmp_path / f"stories{kind}"
    separated = "".join(f"{story}\n<|endoftext|>\n" for story in STORIES)
    rows = [{"id": i, "text": story} for i, story in enumerate(STORIES)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    content = {".txt": separated, ".jsonl": lines, ".json": json.dumps(rows)}
    text = content[kind.removesuffix(".gz")].encode()
    return write_file(path, gzip.compress(text) if kind.endswith(".gz") else text)


@pytest.mark.fast
@pytest.mark.parametrize("kind", (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".json", ".parquet"))
def test_all_formats_give_the_same_documents(tmp_path: Path, kind: str) -> None:
    corpus = build(tmp_path, write_stories(tmp_path, kind))
    assert sorted(all_documents(corpus)) == sorted(STORIES)
    assert corpus.splits["train"].bytes == sum(map(len, documents(corpus, "train")))
    assert corpus.splits["train"].tokens == len(corpus.tokens("train"))


def test_folders_and_lists_of_files_are_read_in_order(tmp_path: Path) -> None:
    for i, story in enumerate(STORIES[:9]):
        write_file(tmp_path / "texts" / "deep" / f"{i}.txt", story)
    write_file(tmp_path / "texts" / "picture.png", b"\x89PNG\0")
    corpus = build(tmp_path, tmp_path / "texts", split=0.2, split_by="tail")
    assert all_documents(corpus) == STORIES[:9]
    files = [str(tmp_path / "texts" / "deep" / f"{i}.txt") for i in (3, 1, 2)]
    listed = build(tmp_path, files, split=0.3, split_by="tail")
    assert all_documents(listed) == [STORIES[i] for i in (3, 1, 2)]


def test_a_document_can_be_a_line_or_a_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", "\r\n".join(f"line number {i}" for i in range(30)))
    by_line = build(tmp_path, path, document_boundary="line", split_by="tail")
    assert all_documents(by_line) == [f"line number {i}" for i in range(30)]
    assert build(tmp_path, path, document_boundary="file").splits["train"].documents == 1


def test_white_space_around_documents_and_empty_documents_are_dropped(tmp_path: Path) -> None:
    text = "<|endoftext|>".join(["\n\n", *(f"\n\n{story}\n " for story in STORIES), "  "])
    assert sorted(all_documents(build(tmp_path, write_file(tmp_path / "a.txt", text)))) == sorted(
        STORIES
    )


@pytest.mark.fast
@pytest.mark.parametrize("split_by", ["random", "tail"])
def test_splits_are_disjoint_and_complete(tmp_path: Path, split_by: str) -> None:
    path = write_stories(tmp_path, ".jsonl")
    corpus = build(tmp_path, path, split=0.3, split_by=split_by)
    train, valid = documents(corpus, "train"), documents(corpus, "valid")
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(STORIES)
    assert 5 <= len(valid) <= 20
    if split_by == "tail":
        assert train + valid == STORIES


@pytest.mark.fast
def test_equal_documents_are_in_one_split(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", "<|endoftext|>".join(STORIES * 5))
    corpus = build(tmp_path, path, split=0.3)
    assert not set(documents(corpus, "train")) & set(documents(corpus, "valid"))
    tail = build(tmp_path, path, split=0.3, split_by="tail")
    repeated = set(documents(tail, "train"))
    expected = sum(text in repeated for text in documents(tail, "valid"))
    assert tail.meta["duplicates_across_splits"] == expected > 0


def test_with_valid_path_the_held_out_share_is_a_test_split(tmp_path: Path) -> None:
    train = write_file(tmp_path / "train.txt", "<|endoftext|>".join(STORIES[:30]))
    valid = write_file(tmp_path / "valid.txt", "<|endoftext|>".join(STORIES[30:]))
    corpus = build(tmp_path, train, valid_path=str(valid), split=0.2)
    assert documents(corpus, "valid") == STORIES[30:]
    assert sorted(documents(corpus, "train") + documents(corpus, "test")) == sorted(STORIES[:30])
    without = build(tmp_path, train, valid_path=str(valid), split=0.0)
    assert documents(without, "train") == STORIES[:30]


def test_a_single_document_is_cut_at_a_line_end(tmp_path: Path) -> None:
    lines = [f"This is line number {i} of a book." for i in range(100)]
    corpus = build(tmp_path, write_file(tmp_path / "book.txt", "\n".join(lines)), split_by="tail")
    train, valid = all_documents(corpus)
    assert train.split("\n") + valid.split("\n") == lines
    assert 5 <= len(valid.split("\n")) <= 11


def test_few_documents_of_uneven_length_are_cut_to_match_the_share(tmp_path: Path) -> None:
    files = [
        write_file(tmp_path / "a.txt", "short one. " * 20),
        write_file(tmp_path / "b.txt", "long " * 9999),
    ]
    for split_by in ("tail", "random"):
        corpus = build(tmp_path, [str(path) for path in files], split=0.1, split_by=split_by)
        train, valid = corpus.splits["train"].tokens, corpus.splits["valid"].tokens
        assert valid / (train + valid) == pytest.approx(0.1, abs=0.02)


def test_a_share_is_held_out_where_nothing_else_would_be(tmp_path: Path) -> None:
    path = write_stories(tmp_path, ".jsonl")
    corpus = build(tmp_path, path, split=0.0)
    assert set(documents(corpus, "valid")) == set(documents(build(tmp_path, path), "valid"))
    assert "data.split=0 would leave nothing to validate on" in corpus.meta["split_rule"]


def test_a_corpus_says_what_was_read(tmp_path: Path) -> None:
    write_file(tmp_path / "in" / "a.csv", "id,Text\n1,One fox and nothing more than that.\n" * 9)
    write_file(tmp_path / "in" / "b.txt", ("Un café. " * 20).encode("latin-1"))
    write_file(tmp_path / "in" / "._b.txt", "leftover")
    files, encoding = build(tmp_path, tmp_path / "in").meta["read"]
    assert files == "1 .csv file, 1 .txt file (column Text); skipped 1 hidden file"
    assert encoding.endswith("b.txt: read as cp1252, a guess; data.encoding=NAME decides")


def test_a_corpus_has_a_name_that_every_system_allows(tmp_path: Path) -> None:
    write_file(tmp_path / "in" / "a.txt", "One fox and rain. " * 20)
    names = {str(tmp_path / "in" / "*.txt"): "text", str(tmp_path / "in"): "in"}
    for path, name in names.items():
        assert build(tmp_path, path).folder.name.startswith(f"{name}-char-")
    for typed, name in {
        "a\nb": "a_b",
        "_a_": "_a_",
        "two words": "two words",
        "é[1]": "é_1",
    }.items():
        assert source_name(DataConfig(path=f"{typed}.txt")) == name


def test_keys_of_the_reader_are_part_of_the_identity_once_they_are_set(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", ("Un café. " * 20).encode("latin-1"))
    folders = [
        build(tmp_path, path, **keys).folder
        for keys in ({}, {"encoding": "latin-1"}, {"format": "text"}, {"encoding": "cp1250"})
    ]
    assert len(set(folders)) == 4
    key = json.loads((folders[0] / "meta.json").read_text(encoding="utf-8"))["key"]
    assert "format" not in key[3] and "encoding" not in key[3]  # as before there were such keys


def test_max_samples_and_subset_limit_the_training_documents(tmp_path: Path) -> None:
    path = write_stories(tmp_path, ".jsonl")
    assert len(all_documents(build(tmp_path, path, max_samples=7))) == 7
    # valid_path is read whole, whatever the limits on training documents.
    fewer = build(tmp_path, path, max_samples=7, split=0.0, valid_path=str(path))
    assert fewer.splits["train"].documents == 7
    assert fewer.splits["valid"].documents == len(all_documents(build(tmp_path, path)))
    whole = documents(build(tmp_path, path), "train")
    some = documents(build(tmp_path, path, subset=0.5), "train")
    assert set(some) < set(whole)
    # data.subset applies before data.split.
    held = documents(build(tmp_path, path), "valid")
    assert set(documents(build(tmp_path, path, subset=0.5), "valid")) < set(held)


def test_max_tokens_leaves_validation_whole(tmp_path: Path) -> None:
    many = [f"{i} {story}" for i in range(50) for story in STORIES]
    path = write_file(tmp_path / "a.txt", "<|endoftext|>".join(many))
    valid = write_file(tmp_path / "v.txt", "<|endoftext|>".join(STORIES))
    whole = build(tmp_path, path, valid_path=str(valid))
    few = build(tmp_path, path, valid_path=str(valid), max_tokens=10_000)
    read = sum(few.splits[name].tokens for name in ("train", "test"))
    assert 10_000 <= read <= 30_000 < whole.splits["train"].tokens
    assert documents(few, "valid") == STORIES
    with pytest.raises(UserError, match="stops before the tail"):
        build(tmp_path, path, max_tokens=10_000, split_by="tail")


def test_end_of_text_marks_inside_lines_and_files_are_not_boundaries(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", "\n".join(f"{s!r}<|endoftext|>more" for s in STORIES))
    for mode, count in (("line", 40), ("file", 1)):
        for name in ("gpt2", "char"):
            corpus = build(
                tmp_path, path, TokenizerConfig(name=name), document_boundary=mode, split_by="tail"
            )
            assert "endoftext" not in "".join(all_documents(corpus))
            found = sum(split.documents for split in corpus.splits.values())
            assert found == count + (mode == "file")  # a single document is cut in two


def test_reading_a_long_document_in_chunks_changes_no_token(tmp_path, monkeypatch) -> None:
    path = write_file(tmp_path / "book.txt", "\n".join(" ".join(STORIES[:6]) for _ in range(60)))
    config = TokenizerConfig(name="gpt2")
    whole = build(tmp_path, path, config, split=0.2, split_by="tail")
    expected = {split: whole.tokens(split).tolist() for split in whole.splits}
    monkeypatch.setattr(reading, "CHUNK", 2000)
    monkeypatch.setattr(decoding, "CHUNK", 2000)
    monkeypatch.setattr(text_corpus, "BATCH_CHARACTERS", 2000)
    chunked = build(tmp_path / "again", path, config, split=0.2, split_by="tail")
    assert {split: chunked.tokens(split).tolist() for split in chunked.splits} == expected
    assert len(chunked.document_ends("train")) == 1


def test_mojibake_is_counted_and_repaired_on_request(tmp_path: Path) -> None:
    good = "“Hi,” said the fox — it’s café time…"
    bad = good.encode().decode("cp1252", errors="replace").replace("\ufffd", "\x9d")
    assert repair_mojibake(bad) == (good, 6)
    assert repair_mojibake("â€œHi,â€ he said")[0] == "“Hi,” he said"
    for fine in ("château, Ângela, naïve Ünal", good, "plain"):
        assert repair_mojibake(fine) == (fine, 0)
    path = write_file(tmp_path / "a.txt", "<|endoftext|>".join([*STORIES, bad]))
    assert build(tmp_path, path).meta["mojibake"] == 6
    assert bad in all_documents(build(tmp_path, path))
    assert good in all_documents(build(tmp_path, path, repair_encoding=True))


BAD = {
    "empty.txt": (b"", "has no text"),
    "blank.txt": (b" \n\n ", "has no text"),
    "three.txt": (b"abc", "too short"),
    "binary.txt": (b"text\0\1\2 more" * 50, "binary file"),
    "mixed.txt": ("café ".encode() + b"\nna\xefve " * 200, "not UTF-8 text .byte 0xef in line 2"),
    "broken.txt.gz": (gzip.compress(b"some text " * 1000)[:60], "damaged or cut off"),
    "columns.jsonl": (
        b'{"title": "x", "body": "y"}\n' * 9,
        "no column 'text'; set data.text_column to one of: title, body",
    ),
    "number.jsonl": (b'{"text": 5}\n' * 9, "line 1: 'text' is int, not text"),
    "half.jsonl": (b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
    "object.json": (b'{"text": {"a": 1}}', "row 1: 'text' is dict, not text"),
    "bad.parquet": (b"PAR1 nonsense" * 20, "not a readable parquet file"),
    "long.jsonl": (b'{"text": "' + b"x" * 50_000_000 + b'"}', "longer than"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_a_one_line_error_and_leave_no_corpus(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = write_file(tmp_path / "in" / name, content)
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, path)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "corpora").rglob("*") if p.is_file()]


def test_missing_columns_and_paths_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"title": ["x"], "n": [1]}), path)
    with pytest.raises(
        UserError, match=r"no column 'text'; set data.text_column to one of: title, n"
    ):
        build(tmp_path, path)
    for path, message in {
        str(tmp_path / "nothing.txt"): "no such file or folder",
        str(tmp_path / "a.parket"): "did you mean 'a.parquet'",
        "": "must be a file",
    }.items():
        with pytest.raises(UserError, match=message):
            build(tmp_path, path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text in this folder"):
        build(tmp_path, tmp_path / "empty")


@pytest.mark.fast
def test_a_corpus_is_reused_until_text_or_settings_change(tmp_path: Path) -> None:
    path = write_stories(tmp_path, ".txt")
    first = build(tmp_path, path)
    stamp = first.path("train").stat().st_mtime_ns
    assert build(tmp_path, path).path("train").stat().st_mtime_ns == stamp
    assert build(tmp_path, path, batch_size=99).folder == first.folder
    assert build(tmp_path, path, split=0.2).folder != first.folder
    assert build(tmp_path, path, TokenizerConfig(name="words")).folder != first.folder
    write_file(path, path.read_text(encoding="utf-8") + "One more story.")
    assert build(tmp_path, path).folder != first.folder


@pytest.mark.fast
def test_a_damaged_corpus_is_reported_and_rebuilt(tmp_path: Path, capsys) -> None:
    path = write_stories(tmp_path, ".txt")
    folder = build(tmp_path, path).folder
    good = (folder / "train.bin").read_bytes()
    for damaged in (good[:-2], bytes([good[0] ^ 1]) + good[1:]):
        (folder / "train.bin").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            Corpus(folder)
        build(tmp_path, path)
        assert "rebuilding this corpus" in capsys.readouterr().err
        assert (folder / "train.bin").read_bytes() == good
    for name in ("valid.ends.npy", "tokenizer.json"):
        (folder / name).unlink()
        with pytest.raises(UserError, match="damaged"):
            Corpus(folder)
        build(tmp_path, path)
    (folder / "meta.json").write_text("{", encoding="utf-8")
    assert build(tmp_path, path).splits["train"].documents > 0


def test_verify_all_reads_every_block(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus_module, "CHECKSUM_BLOCK", 64)
    folder = build(tmp_path, write_stories(tmp_path, ".txt")).folder
    content = bytearray((folder / "train.bin").read_bytes())
    content[64] ^= 1  # in a block that is not among the sampled ones
    (folder / "train.bin").write_bytes(content)
    Corpus(folder)
    with pytest.raises(UserError, match="checksum of block 1"):
        Corpus(folder, verify_all=True)


def test_a_full_disk_leaves_no_files(tmp_path: Path, monkeypatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_module.SplitWriter, "add", no_space)
    with pytest.raises(UserError, match="cannot be written"):
        build(tmp_path, write_stories(tmp_path, ".txt"))
    assert not list((tmp_path / "corpora").iterdir())


def test_a_long_file_name_gives_a_corpus_with_a_short_one(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 250}.txt"
    path.write_text("\n\n".join(STORIES), encoding="utf-8")
    assert len(build(tmp_path, path).folder.name) < 100


@pytest.mark.fast
def test_worker_processes_open_the_tokens_again(toy_corpus: Corpus) -> None:
    tokens = toy_corpus.tokens("train")
    sent = pickle.dumps(tokens)
    assert len(sent) < 1000 < tokens.nbytes
    assert np.array_equal(pickle.loads(sent), tokens)
    assert np.array_equal(pickle.loads(pickle.dumps(tokens[5:9])), tokens[5:9])


def start_build(root: Path, data: DataConfig, tokenizer: str) -> multiprocessing.Process:
    """Build a corpus in a forked process, which needs no imports."""

    def run() -> None:
        open_corpus(data, TokenizerConfig(name=tokenizer), 1, str(root))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child


def start_toy_build(root: Path) -> multiprocessing.Process:
    data = DataConfig(source="toy_stories", max_samples=3000, split=0.1)
    return start_build(root, data, "words")


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@posix_only
@pytest.mark.parametrize("times", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_no_incomplete_corpus(tmp_path: Path, times: int) -> None:
    began = time.perf_counter()
    start_toy_build(tmp_path).join()
    duration = time.perf_counter() - began
    (finished,) = tmp_path.iterdir()
    expected = read_folder(finished)
    rng, killed = random.Random(0), 0
    for _ in range(times):
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        child = start_toy_build(tmp_path)
        child.join(rng.uniform(0, duration))
        child.kill()
        child.join()
        killed += child.exitcode != 0
        for path in tmp_path.iterdir():
            assert path.name.startswith(".") or read_folder(path) == expected
    assert killed
    start_toy_build(tmp_path).join()  # removes what killed processes left
    assert [path.name for path in tmp_path.iterdir()] == [finished.name]


@posix_only
def test_two_processes_can_build_the_same_corpus(tmp_path: Path) -> None:
    children = [start_toy_build(tmp_path) for _ in range(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert Corpus(folder, verify_all=True).splits["valid"].documents > 0


@posix_only
def test_memory_stays_bounded_for_a_large_text(tmp_path: Path) -> None:
    """A document of 64 MB needs little more memory than one of 1 MB."""
    line = "Once there was a fox, and it was glad of the rain. " * 20 + "\n"

    def measure(megabytes: int, send_peak: Callable[[int], None]) -> None:
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w", encoding="utf-8") as file:
            for _ in range(megabytes * 1000):
                file.write(line)
        build(tmp_path, path, TokenizerConfig(name="gpt2"), split_by="tail")
        send_peak(peak_memory())

    context, peaks = multiprocessing.get_context("fork"), {}
    for megabytes in (1, 64):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=measure, args=(megabytes, sender.send))
        child.start()
        peaks[megabytes] = receiver.recv() / 1024**2
        child.join()
    assert peaks[64] - peaks[1] < 64, peaks


@pytest.mark.fast
def test_best_possible_loss_is_the_grammars_likelihood(toy_corpus: Corpus) -> None:
    texts = documents(toy_corpus, "valid")
    expected = [-story_grammar().log_probability(text) for text in texts]
    nats = toy_corpus.negative_log_likelihoods("valid")
    np.testing.assert_allclose(nats, expected, rtol=1e-12)
    assert toy_corpus.negative_log_likelihoods("train") is None
    stored = toy_corpus.meta["best_possible"]
    assert stored["entropy_per_document"] == pytest.approx(story_grammar().entropy(), rel=1e-12)
    assert stored["negative_log_likelihood"]["valid"] == pytest.approx(sum(expected), rel=1e-12)


def test_max_samples_sets_the_number_of_toy_stories(toy_corpus: Corpus) -> None:
    assert sum(split.documents for split in toy_corpus.splits.values()) == 300
