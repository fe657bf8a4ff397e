"""Corpora: what goes in comes out, splits keep apart, and no accident leaves a false one."""

import errno
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data import build as build_module
from gptlab.data import readers
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, toy_data

STORIES = [f"Story {i}: once there was a fox number {i * i}.\n\nIt was glad." for i in range(40)]
CHAR = TokenizerConfig(name="char")


def make(tmp_path: Path, path: object, tokenizer: TokenizerConfig = CHAR, **changes) -> Corpus:
    config = DataConfig(path=path if isinstance(path, list) else str(path), **changes)
    return open_corpus(config, tokenizer, seed=1, corpus_root=str(tmp_path / "corpora"))


def documents(corpus: Corpus, split: str) -> list[str]:
    tokens, begin, texts = corpus.tokens(split), 0, []
    for end in corpus.ends(split):
        texts.append(decode(corpus.tokenizer, tokens[begin:end].tolist()))
        begin = end
    return texts


def all_documents(corpus: Corpus) -> list[str]:
    return [text for split in corpus.splits for text in documents(corpus, split)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_format(tmp_path: Path, kind: str) -> Path:
    """The stories in a file of each format."""
    path = tmp_path / f"stories{kind}"
    separated = "".join(f"{story}\n<|endoftext|>\n" for story in STORIES)
    rows = [{"id": i, "text": story} for i, story in enumerate(STORIES)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    content = {".txt": separated, ".jsonl": lines, ".json": json.dumps(rows)}
    text = content[kind.removesuffix(".gz")].encode()
    return write(path, gzip.compress(text) if kind.endswith(".gz") else text)


@pytest.mark.parametrize("kind", readers.SUFFIXES)
def test_every_format_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    corpus = make(tmp_path, as_format(tmp_path, kind))
    assert sorted(all_documents(corpus)) == sorted(STORIES)
    assert corpus.splits["train"].bytes == sum(map(len, documents(corpus, "train")))
    assert corpus.splits["train"].tokens == len(corpus.tokens("train"))


def test_a_folder_and_a_list_are_read_in_order(tmp_path: Path) -> None:
    for i, story in enumerate(STORIES[:9]):
        write(tmp_path / "texts" / "deep" / f"{i}.txt", story)
    write(tmp_path / "texts" / "picture.png", b"\x89PNG\0")
    corpus = make(tmp_path, tmp_path / "texts", split=0.2, split_by="tail")
    assert all_documents(corpus) == STORIES[:9]
    files = [str(tmp_path / "texts" / "deep" / f"{i}.txt") for i in (3, 1, 2)]
    listed = make(tmp_path, files, split=0.3, split_by="tail")
    assert all_documents(listed) == [STORIES[i] for i in (3, 1, 2)]


def test_documents_by_line_and_by_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\r\n".join(f"line number {i}" for i in range(30)))
    by_line = make(tmp_path, path, documents="line", split_by="tail")
    assert all_documents(by_line) == [f"line number {i}" for i in range(30)]
    assert make(tmp_path, path, documents="file").splits["train"].documents == 1


def test_white_space_round_documents_goes_and_empty_ones_too(tmp_path: Path) -> None:
    text = "<|endoftext|>".join(["\n\n", *(f"\n\n{story}\n " for story in STORIES), "  "])
    assert sorted(all_documents(make(tmp_path, write(tmp_path / "a.txt", text)))) == sorted(STORIES)


@pytest.mark.parametrize("split_by", ["random", "tail"])
def test_splits_are_disjoint_and_complete(tmp_path: Path, split_by: str) -> None:
    path = as_format(tmp_path, ".jsonl")
    corpus = make(tmp_path, path, split=0.3, split_by=split_by)
    train, valid = documents(corpus, "train"), documents(corpus, "valid")
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(STORIES)
    assert 5 <= len(valid) <= 20
    if split_by == "tail":
        assert train + valid == STORIES


def test_equal_documents_never_fall_on_two_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "<|endoftext|>".join(STORIES * 5))
    corpus = make(tmp_path, path, split=0.3)
    assert not set(documents(corpus, "train")) & set(documents(corpus, "valid"))
    tail = make(tmp_path, path, split=0.3, split_by="tail")
    repeated = set(documents(tail, "train"))
    expected = sum(text in repeated for text in documents(tail, "valid"))
    assert tail.meta["duplicates_across_splits"] == expected > 0


def test_with_validation_of_its_own_the_share_becomes_a_test(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", "<|endoftext|>".join(STORIES[:30]))
    valid = write(tmp_path / "valid.txt", "<|endoftext|>".join(STORIES[30:]))
    corpus = make(tmp_path, train, valid_path=str(valid), split=0.2)
    assert documents(corpus, "valid") == STORIES[30:]
    assert sorted(documents(corpus, "train") + documents(corpus, "test")) == sorted(STORIES[:30])
    without = make(tmp_path, train, valid_path=str(valid), split=0.0)
    assert documents(without, "train") == STORIES[:30]


def test_a_single_document_is_cut_at_a_line(tmp_path: Path) -> None:
    lines = [f"This is line number {i} of a book." for i in range(100)]
    corpus = make(tmp_path, write(tmp_path / "book.txt", "\n".join(lines)), split_by="tail")
    train, valid = all_documents(corpus)
    assert train.split("\n") + valid.split("\n") == lines
    assert 5 <= len(valid.split("\n")) <= 11


def test_few_documents_of_uneven_length_are_cut_to_the_share(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.txt", "short one. " * 20),
        write(tmp_path / "b.txt", "long " * 9999),
    ]
    for split_by in ("tail", "random"):
        corpus = make(tmp_path, [str(path) for path in files], split=0.1, split_by=split_by)
        train, valid = corpus.splits["train"].tokens, corpus.splits["valid"].tokens
        assert valid / (train + valid) == pytest.approx(0.1, abs=0.02)


def test_samples_subset_and_tokens_are_limited(tmp_path: Path) -> None:
    path = as_format(tmp_path, ".jsonl")
    assert len(all_documents(make(tmp_path, path, max_samples=7))) == 7
    # A validation split of its own stays whole, whatever is trained on.
    fewer = make(tmp_path, path, max_samples=7, split=0.0, valid_path=str(path))
    assert fewer.splits["train"].documents == 7
    assert fewer.splits["valid"].documents == len(all_documents(make(tmp_path, path)))
    whole = documents(make(tmp_path, path), "train")
    some = documents(make(tmp_path, path, subset=0.5), "train")
    assert set(some) < set(whole)
    # The share is taken before anything is held out, so that of it a share is held out.
    held = documents(make(tmp_path, path), "valid")
    assert set(documents(make(tmp_path, path, subset=0.5), "valid")) < set(held)


def test_a_limit_on_tokens_leaves_validation_whole(tmp_path: Path) -> None:
    many = [f"{i} {story}" for i in range(50) for story in STORIES]
    path = write(tmp_path / "a.txt", "<|endoftext|>".join(many))
    valid = write(tmp_path / "v.txt", "<|endoftext|>".join(STORIES))
    whole = make(tmp_path, path, valid_path=str(valid))
    few = make(tmp_path, path, valid_path=str(valid), max_tokens=10_000)
    read = sum(few.splits[name].tokens for name in ("train", "test"))
    assert 10_000 <= read <= 30_000 < whole.splits["train"].tokens
    assert documents(few, "valid") == STORIES
    with pytest.raises(UserError, match="would end before the tail"):
        make(tmp_path, path, max_tokens=10_000, split_by="tail")


def test_a_mark_within_line_and_file_documents_ends_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n".join(f"{s!r}<|endoftext|>more" for s in STORIES))
    for mode, count in (("line", 40), ("file", 1)):
        for name in ("gpt2", "char"):
            corpus = make(
                tmp_path, path, TokenizerConfig(name=name), documents=mode, split_by="tail"
            )
            assert "endoftext" not in "".join(all_documents(corpus))
            found = sum(split.documents for split in corpus.splits.values())
            assert found == count + (mode == "file")  # a single document is cut in two


def test_a_long_document_passes_in_pieces_without_changing_a_token(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "book.txt", "\n".join(" ".join(STORIES[:6]) for _ in range(60)))
    config = TokenizerConfig(name="gpt2")
    whole = make(tmp_path, path, config, split=0.2, split_by="tail")
    expected = {split: whole.tokens(split).tolist() for split in whole.splits}
    monkeypatch.setattr(readers, "CHUNK", 2000)
    monkeypatch.setattr(build_module, "BATCH", 2000)
    pieces = make(tmp_path / "again", path, config, split=0.2, split_by="tail")
    assert {split: pieces.tokens(split).tolist() for split in pieces.splits} == expected
    assert len(pieces.ends("train")) == 1


def test_mojibake_is_counted_and_on_request_mended(tmp_path: Path) -> None:
    good = "“Hi,” said the fox — it’s café time…"
    bad = good.encode().decode("cp1252", errors="replace").replace("\ufffd", "\x9d")
    assert readers.repair_mojibake(bad) == (good, 6)
    assert readers.repair_mojibake("â€œHi,â€ he said")[0] == "“Hi,” he said"
    for fine in ("château, Ângela, naïve Ünal", good, "plain"):
        assert readers.repair_mojibake(fine) == (fine, 0)
    path = write(tmp_path / "a.txt", "<|endoftext|>".join([*STORIES, bad]))
    assert make(tmp_path, path).meta["mojibake"] == 6
    assert bad in all_documents(make(tmp_path, path))
    assert good in all_documents(make(tmp_path, path, repair_encoding=True))


BAD = {
    "empty.txt": (b"", "holds no text"),
    "blank.txt": (b" \n\n ", "holds no text"),
    "three.txt": (b"abc", "too short"),
    "binary.txt": (b"text\0\1\2 more" * 50, "binary file"),
    "latin.txt": ("é".encode("latin-1") * 200, "not UTF-8 text"),
    "broken.txt.gz": (gzip.compress(b"some text " * 1000)[:60], "broken gzip"),
    "false.txt.gz": (b"not gzip at all " * 20, "broken gzip"),
    "columns.jsonl": (
        b'{"title": "x", "body": "y"}\n' * 9,
        "no column 'text'; there are: title, body",
    ),
    "number.jsonl": (b'{"text": 5}\n' * 9, "line 1: 'text' is not text but int"),
    "half.jsonl": (b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
    "object.json": (b'{"text": "a"}', "must hold a list"),
    "bad.parquet": (b"PAR1 nonsense" * 20, "not a parquet file"),
    "long.txt": (b"x" * (readers.LONGEST_LINE + 5), "longer than"),
    "long.jsonl": (b'{"text": "' + b"x" * 50_000_000 + b'"}', "longer than"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_one_line_and_leave_nothing(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = write(tmp_path / "in" / name, content)
    with pytest.raises(UserError, match=words) as caught:
        make(tmp_path, path)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "corpora").rglob("*") if p.is_file()]


def test_bad_parquet_columns_and_places(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"title": ["x"], "n": [1]}), path)
    with pytest.raises(UserError, match="no column 'text'; there are: title, n"):
        make(tmp_path, path)
    for given, words in {
        str(tmp_path / "nothing.txt"): "there is no such file or folder",
        str(tmp_path / "a.parket"): "did you mean 'a.parquet'",
        "": "must be a file",
    }.items():
        with pytest.raises(UserError, match=words):
            make(tmp_path, given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text in this folder"):
        make(tmp_path, tmp_path / "empty")


def test_a_corpus_is_found_again_and_rebuilt_when_something_changed(tmp_path: Path) -> None:
    path = as_format(tmp_path, ".txt")
    first = make(tmp_path, path)
    stamp = first.path("train").stat().st_mtime_ns
    assert make(tmp_path, path).path("train").stat().st_mtime_ns == stamp
    assert make(tmp_path, path, batch_size=99).folder == first.folder
    assert make(tmp_path, path, split=0.2).folder != first.folder
    assert make(tmp_path, path, TokenizerConfig(name="words")).folder != first.folder
    write(path, path.read_text() + "One more story.")
    assert make(tmp_path, path).folder != first.folder


def test_damage_is_noticed_said_and_mended(tmp_path: Path, capsys) -> None:
    path = as_format(tmp_path, ".txt")
    folder = make(tmp_path, path).folder
    good = (folder / "train.bin").read_bytes()
    for damaged in (good[:-2], bytes([good[0] ^ 1]) + good[1:]):
        (folder / "train.bin").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            Corpus(folder)
        make(tmp_path, path)
        assert "building this corpus anew" in capsys.readouterr().err
        assert (folder / "train.bin").read_bytes() == good
    for name in ("valid.ends.npy", "tokenizer.json"):
        (folder / name).unlink()
        with pytest.raises(UserError, match="damaged"):
            Corpus(folder)
        make(tmp_path, path)
    (folder / "meta.json").write_text("{")
    assert make(tmp_path, path).splits["train"].documents > 0


def test_verify_reads_every_block(tmp_path: Path, monkeypatch) -> None:
    from gptlab.data import corpus as module

    monkeypatch.setattr(module, "BLOCK", 64)
    folder = make(tmp_path, as_format(tmp_path, ".txt")).folder
    content = bytearray((folder / "train.bin").read_bytes())
    content[64] ^= 1  # in a block that is not among the sampled ones
    (folder / "train.bin").write_bytes(content)
    Corpus(folder)
    with pytest.raises(UserError, match="checksum of block 1"):
        Corpus(folder, every_block=True)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build_module.SplitWriter, "add", no_space)
    with pytest.raises(UserError, match="cannot be written"):
        make(tmp_path, as_format(tmp_path, ".txt"))
    assert not list((tmp_path / "corpora").iterdir())


BUILD = """
import sys; sys.path.insert(0, {root!r})
from gptlab.config import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
print("ready", flush=True)
data = DataConfig(source="toy_stories", max_samples={count}, split=0.1)
open_corpus(data, TokenizerConfig(name="words"), 1, {corpora!r})
print("done", flush=True)
"""


def build_elsewhere(tmp_path: Path, count: int = 3000) -> subprocess.Popen:
    code = BUILD.format(root=str(ROOT), corpora=str(tmp_path / "corpora"), count=count)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("times", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_no_false_corpus(tmp_path: Path, times: int) -> None:
    began = time.perf_counter()
    build_elsewhere(tmp_path).wait()
    whole = time.perf_counter() - began
    (finished,) = (tmp_path / "corpora").iterdir()
    good = {path.name: path.read_bytes() for path in finished.iterdir()}
    draw, killed = random.Random(0), 0
    for _ in range(times):
        for path in (tmp_path / "corpora").iterdir():
            subprocess.run(["rm", "-r", path], check=True)
        child = build_elsewhere(tmp_path)
        time.sleep(draw.uniform(0, whole))
        os.kill(child.pid, signal.SIGKILL)
        killed += child.wait() != 0
        left = [path for path in (tmp_path / "corpora").glob("*") if path.name[0] != "."]
        if left:
            assert {path.name: path.read_bytes() for path in left[0].iterdir()} == good
    assert killed
    build_elsewhere(tmp_path).wait()  # clears what the killed ones left
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [finished.name]


def test_two_processes_building_the_same_corpus_do_not_collide(tmp_path: Path) -> None:
    children = [build_elsewhere(tmp_path) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    (folder,) = (tmp_path / "corpora").iterdir()
    assert Corpus(folder, every_block=True).splits["valid"].documents > 0


def test_best_possible_is_the_grammars_own_likelihood(toy_corpus: Corpus) -> None:
    from gptlab.data.toy import stories

    texts = documents(toy_corpus, "valid")
    expected = [-stories.log_probability(text) for text in texts]
    np.testing.assert_allclose(toy_corpus.nats("valid"), expected, rtol=1e-12)
    assert toy_corpus.nats("train") is None
    stored = toy_corpus.meta["best_possible"]
    assert stored["entropy_per_document"] == pytest.approx(stories.entropy(), rel=1e-12)
    assert stored["negative_log_likelihood"]["valid"] == pytest.approx(sum(expected), rel=1e-12)


def test_memory_stays_bounded_while_a_large_text_is_read(tmp_path: Path) -> None:
    """64 MB of text in one document, built with little more memory than 1 MB needs."""
    import resource

    peaks = {}
    for megabytes in (1, 64):
        path = tmp_path / f"{megabytes}.txt"
        line = "Once there was a fox, and it was glad of the rain. " * 20 + "\n"
        with path.open("w") as file:
            for _ in range(megabytes * 1000):
                file.write(line)
        code = BUILD.format(root=str(ROOT), corpora=str(tmp_path / "c"), count=1).replace(
            'DataConfig(source="toy_stories", max_samples=1, split=0.1)',
            f"DataConfig(path={str(path)!r}, split_by='tail')",
        ).replace('"words"', '"gpt2"') + (
            "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        peaks[megabytes] = int(done.stdout.split()[-1]) / 1024
    assert resource and peaks[64] - peaks[1] < 64, peaks


def test_toy_data_asks_for_as_many_stories_as_wanted(tmp_path: Path) -> None:
    config = TokenizerConfig(name="words")
    few = open_corpus(toy_data(), config, seed=1, corpus_root=str(tmp_path))
    assert sum(split.documents for split in few.splits.values()) == 300
