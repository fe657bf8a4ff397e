"""Fuzz arguments, fuzz_prompts, texts and damaged files: a result, or an error of one line.

Every `pytest` tries a few cases of each kind; `pytest -m slow tests/test_fuzz.py` tries 12,000.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gptlab.config.cli import command
from gptlab.config.keys import config_groups, flatten, group_choices
from gptlab.config.schema import (
    DataConfig,
    GenerateConfig,
    ModelConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainConfig,
)
from gptlab.config.validation import validate_config
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.sequences import make_sequences
from gptlab.data.tokenizer import CharTokenizer, GPT2Tokenizer, WordTokenizer
from gptlab.generation.cli import run_generate
from gptlab.model import checkpoint
from gptlab.model.gpt import GPT
from gptlab.training.preflight import check_train_settings
from gptlab.training.run_plan import make_run_plan
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, toy_data

ANY = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C", "Cs"]), max_size=12)
ODD = st.sampled_from(
    [
        *("", "null", "true", "no", "0", "-1", "1", "2", "3.5", "1e-9", "1e400", "nan", "inf"),
        *("1_000", "0x10", "9" * 30, "[", "]", "[]", "[1,2]", "[a,,b]", "{", "{a:1}", "{}"),
        *("${x}", "${model.n_layer}", "${oc.env:HOME}", "\\${x}", "'", '"', "\\", "a b", "a,b"),
        *("range(1,3)", "choice(1,2)", "glob(*)", "int(1)", "~", "!!python/object:os.system"),
        *("../..", "/", "é", "🙂", "gpt2", "char", "words", "post", "rotary", "sliding", "rows"),
        *("cosine", "sgd", "tail", "%s", "?", "???", "=", "==", "#", ":", "@", "+", "--", "-inf"),
        *("\t", "\n", "\0", "\u200b"),
    ]
)  # fmt: skip


@contextlib.contextmanager
def captured_output() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Capture output as strict UTF-8, as a terminal requires."""
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in (out, err)]
    streams[1].reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield out, err
    for stream in streams:
        stream.detach()


def run(main: Callable[[], None], *arguments: str) -> None:
    """Run a command; any failure must be one line and exit code 2."""
    sys.argv[1:] = arguments
    code = 0
    with captured_output() as (_, err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    printed = err.getvalue().decode()
    assert code in (0, 2), (code, printed)
    assert "Traceback" not in printed
    if code == 2:
        assert printed.rstrip("\n").splitlines()[-1].startswith("error: "), printed


# --- command-line arguments ---

KEYS = sorted(
    key
    for key in flatten(TrainConfig())
    if key not in ("resume", "init_from", "callbacks", "logger", "eval_before", "eval_after")
)
TYPED = st.one_of(
    st.tuples(st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(KEYS), ODD | ANY),
    st.tuples(st.just(""), st.sampled_from(config_groups("train")), ODD | ANY),
    st.tuples(
        st.sampled_from(["", "+"]),
        st.sampled_from(["trainer.extra.x", "callbacks.x", "logger.x", "hydra.x", "model", "x.y"]),
        ODD,
    ),
    st.tuples(st.just(""), ANY.filter(lambda text: text[:1] != "-"), ODD | ANY),
).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}")
CHOSEN = st.sampled_from(config_groups("train")).flatmap(
    lambda group: st.sampled_from([f"{group}={name}" for name in group_choices(group)])
)
IMPOSSIBLE = {"\0"}  # no system accepts it in an argument


@given(arguments=st.lists(TYPED | CHOSEN, min_size=1, max_size=4))
def fuzz_arguments(arguments: list[str]) -> None:
    def check(config: TrainConfig) -> None:
        check_train_settings(config)
        if config.data.task == "text":  # as the corpus
            make_run_plan(config, toy_stories())

    arguments = [a for a in arguments if not IMPOSSIBLE & set(a)]
    run(command("train")(check), *arguments)


@cache
def toy_stories() -> Corpus:
    root = TemporaryDirectory()
    corpus = open_corpus(toy_data(), TokenizerConfig(name="words"), 1, root.name)
    corpus.kept = root
    return corpus


# --- prompts and sampling ---

TEXT = st.text(max_size=20) | st.text("abc ,.!", max_size=60) | ANY
NUMBER = st.sampled_from([None, None, None, 1, 2, 5, 50257, 10**9, 0, -1])
TEMPERATURE = st.sampled_from([1.0, 0.0, 1e-12, 1e-6, 0.5, 1.5, 1e30, 1e300, -1.0, float("nan")])
SHARE = st.sampled_from([None, None, 1e-6, 0.5, 1.0, 1e-12, 1.5, float("inf")])


@cache
def make_checkpoint(name: str) -> Path:
    tokenizer = {
        "gpt2": lambda: GPT2Tokenizer(),
        "char": lambda: CharTokenizer(list(" !,.abcé🙂")),
        "words": lambda: WordTokenizer(sorted(["a", " a", "b", " bcd", "abc", " ", ".", "c", "d"])),
    }[name]()
    sizes = {"n_layer": 1, "n_head": 1, "d_model": 8, "context_length": 6}
    config = ModelConfig(**sizes, vocab_size=tokenizer.vocab_size + 3)
    root = TemporaryDirectory()
    path = Path(root.name) / f"{name}.ckpt"
    weights = {f"net.{key}": weight for key, weight in GPT(config).state_dict().items()}
    content = {"state_dict": weights, "tokenizer": tokenizer.state(), "global_step": 1}
    stored = {"model": vars(config), "data": {"eot_first": name == "words"}}
    torch.save(content | {"config": stored}, path)
    TEMPORARY_FOLDERS.append(root)
    return path


TEMPORARY_FOLDERS: list[TemporaryDirectory] = []


@given(
    name=st.sampled_from(["char", "words", "gpt2"]),
    given=st.tuples(st.none() | TEXT, st.none())
    | st.tuples(st.none(), st.binary(max_size=30) | TEXT.map(lambda t: t.encode(errors="replace")))
    | st.tuples(TEXT, st.just(b"both")),
    counts=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 7, 9, 12, -3])),
    sampling=st.builds(SamplingConfig, TEMPERATURE, NUMBER, SHARE),
    unknown=st.sampled_from(["skip", "error", "x"]),
)
def fuzz_prompts(name, given, counts, sampling, unknown) -> None:
    prompt, file = given
    config = GenerateConfig(
        run=str(make_checkpoint(name)), prompt=prompt, num_samples=counts[0],
        max_new_tokens=counts[1], unknown=unknown, sampling=sampling,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        if file is not None:
            (Path(folder) / "prompt").write_bytes(file)
            config.prompt_file = f"{folder}/prompt"
        with captured_output(), contextlib.suppress(UserError):
            validate_config(config)
            run_generate(config)


# --- text files ---

PIECES = st.sampled_from(
    [
        *(b"<|endoftext|>", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" ", b"\xe2\x80"),
        *(b'{"text": "a story"}\n', b'{"text": 3}\n', b'{"text": null}\n', b"[1]\n", b"{\n", b"[]"),
        *(b'[{"text": "one"}, {"text": "two"}]', b"once upon a time " * 20, "â€œ é 🙂".encode()),
        *(b"PAR1", b"\x1f\x8b\x08", b'{"text": "\\ud800"}\n', b'{"other": "x"}\n', b"a" * 3000),
    ]
)
TABLE_PIECES = st.sampled_from(
    [
        *(b"text,label\n", b"text\tlabel\n", b"a,b\n", b'"x, y",b\n', b'a,"', b"ham\ta\n", b"\x1a"),
        *(b"<html><p>", b"<!doctype html>", b"&amp;", b"<script>", b"<?xml?>", b"%PDF", b"PK\3\4"),
        *(b'{"text": "a", "label": 1}\n', b'{"instruction": "a", "output": "b"}\n', b"{" * 2000),
        *("café ".encode("latin-1"), "лиса ".encode("koi8-r"), "fox ".encode("utf-16-le") * 20),
    ]
)


@cache
def sound_files() -> list[bytes]:
    """Make a small file of each binary format."""
    table, buffers = (
        pyarrow.table({"text": ["a fox", "rain"] * 20}),
        [io.BytesIO() for _ in range(5)],
    )
    pyarrow.parquet.write_table(table, buffers[0])
    for buffer, writer in zip(
        buffers[1:], (pyarrow.ipc.new_file, pyarrow.ipc.new_stream), strict=False
    ):
        with writer(buffer, table.schema) as file:
            file.write_table(table)
    with zipfile.ZipFile(buffers[3], "w") as archive:
        archive.writestr("a.txt", "once upon a time " * 20)
        archive.writestr("b.csv", "text,label\na,b\n")
    with tarfile.open(fileobj=buffers[4], mode="w") as tar:
        entry = tarfile.TarInfo("a.jsonl")
        entry.size = 15
        tar.addfile(entry, io.BytesIO(b'{"text": "fox"}'))
    return [buffer.getvalue() for buffer in buffers]


@st.composite
def damage(draw) -> Callable[[bytes], bytes]:
    kind = draw(st.sampled_from(["flip", "cut", "insert", "replace", "swap"]))
    place, width = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    more = draw(st.binary(min_size=1, max_size=40))

    def change(content: bytes) -> bytes:
        at = int(place * max(0, len(content) - 1))
        return {
            "flip": lambda: content[:at] + bytes(b ^ 1 << width % 8 for b in content[at:][:1]),
            "cut": lambda: content[:at],
            "insert": lambda: content[:at] + more + content[at:],
            "replace": lambda: more,
            "swap": lambda: content[:at] + content[at + width :] + content[at : at + width],
        }[kind]() + (content[at + 1 :] if kind == "flip" else b"")

    return change


PACKED = st.sampled_from([bytes, bytes, gzip.compress, bz2.compress, lzma.compress])


@st.composite
def contents(draw) -> bytes:
    """Make a file's content: pieces, or a sound file; perhaps compressed; perhaps damaged."""
    pieces = st.lists(PIECES | TABLE_PIECES | st.binary(max_size=40), max_size=12).map(b"".join)
    content = draw(PACKED)(
        draw(pieces | pieces | st.integers(0, 4).map(lambda n: sound_files()[n]))
    )
    return draw(damage())(content) if draw(st.integers(0, 3)) == 0 else content


SUFFIX = st.sampled_from(
    [
        *("", ".txt", ".txt", ".jsonl", ".json", ".parquet", ".txt.gz", ".jsonl.gz", ".md", ".csv"),
        *(".TSV", ".ndjson", ".html", ".arrow", ".zip", ".tgz", ".bz2", ".xz", ".xyz"),
    ]
)


@given(
    files=st.lists(st.tuples(contents(), SUFFIX), min_size=1, max_size=3),
    tokenizer=st.sampled_from(["char", "words", "gpt2"]),
    read=st.fixed_dictionaries(
        {},
        optional={
            "document_boundary": st.sampled_from(["auto", "line", "file"]),
            "repair_encoding": st.booleans(),
            "max_samples": st.integers(2, 5),
            "max_tokens": st.sampled_from([1, 10, 1000]),
            "subset": st.sampled_from([1e-9, 0.3, 1.0]),
            "split": st.sampled_from([0.0, 0.1, 0.5, 0.9]),
            "split_by": st.sampled_from(["random", "tail"]),
            "text_column": st.sampled_from(["text", "other"]),
            "label_column": st.sampled_from(["label", "b"]),
            "format": st.sampled_from(["text", "csv", "tsv", "json", "html", "parquet", "zip"]),
            "encoding": st.sampled_from(["utf-8", "utf-16", "cp1252", "ascii", "rot13", "x"]),
            "task": st.sampled_from(["classification", "instructions"]),
            "batching": st.sampled_from(["rows", "random", "sliding"]),
            "row_length": st.sampled_from([2, 5]),
        },
    ),
    held_out=st.booleans(),
)
def fuzz_texts(files, tokenizer: str, read: dict, held_out: bool) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        paths = []
        for number, (content, suffix) in enumerate(files):
            paths.append(f"{folder}/in/{number}{suffix}")
            Path(paths[-1]).write_bytes(content)
        where = {"path": paths[:-1], "valid_path": paths[-1]} if held_out and paths[1:] else {}
        where = {"path": f"{folder}/in"} if read.get("subset") == 1.0 else where
        data = DataConfig(**({"path": paths} | where | read))
        root = Path(folder) / "corpora"
        try:
            with captured_output():
                corpus = open_corpus(data, TokenizerConfig(name=tokenizer), 1, str(root))
        except UserError as error:
            assert "\n" not in str(error)
            assert not list(root.glob("*")), "an unfinished corpus is left"
            return
        read_all(corpus, data)


def read_all(corpus: Corpus, data: DataConfig) -> None:
    for split in corpus.splits:
        with contextlib.suppress(UserError):
            windows = make_sequences(corpus, split, 8, data, seed=1)
            windows.read_batch(torch.arange(min(4, len(windows))).numpy())


# --- damaged files ---


@given(file=st.integers(0, 100), change=damage(), every=st.booleans(), forged=st.booleans())
def fuzz_token_files(file: int, change: Callable, every: bool, forged: bool) -> None:
    """A damaged corpus, with a forged checksum or not, is refused or read without a crash."""
    with TemporaryDirectory() as root:
        folder = shutil.copytree(toy_stories().folder, Path(root) / "corpus")
        paths = sorted(folder.iterdir())
        path = paths[file % len(paths)]
        path.write_bytes(change(path.read_bytes()))
        meta = folder / "meta.json"
        if forged and path != meta:
            content = json.loads(meta.read_text(encoding="utf-8"))
            content["files"][path.name] = zlib.crc32(path.read_bytes())
            meta.write_text(json.dumps(content), encoding="utf-8")
        with contextlib.suppress(UserError):
            corpus = Corpus(folder, verify_all=every)
            corpus.tokenizer.encode("a cat")
            read_all(corpus, toy_data())


@given(name=st.sampled_from(["char", "words"]), change=damage())
def fuzz_checkpoints(name: str, change: Callable) -> None:
    """A damaged checkpoint is refused, unless all weights are intact."""
    content = make_checkpoint(name).read_bytes()
    with TemporaryDirectory() as root:
        path = Path(root) / "x.ckpt"
        path.write_bytes(change(content))
        try:
            loaded = checkpoint.load_checkpoint(path)
        except UserError as error:
            assert str(error).startswith(str(path))
            return
        whole = checkpoint.load_checkpoint(make_checkpoint(name)).net.state_dict()
        assert all(torch.equal(whole[key], w) for key, w in loaded.net.state_dict().items())


PARTS = [fuzz_arguments, fuzz_prompts, fuzz_texts, fuzz_token_files, fuzz_checkpoints]
CASES = {
    fuzz_arguments: 3000,
    fuzz_prompts: 3000,
    fuzz_texts: 3000,
    fuzz_token_files: 1500,
    fuzz_checkpoints: 1500,
}


def fuzz(part: Callable[[], None], cases: int, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    checks = list(HealthCheck)
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    with mock.patch.dict(os.environ):
        settings(
            max_examples=cases, deadline=None, derandomize=True, suppress_health_check=checks,
            phases=phases, database=None,
        )(part)()  # fmt: skip
    assert not list(folder.iterdir()), "files are left in the folder"


@pytest.mark.parametrize("part", PARTS)
def test_random_inputs_never_crash_a_command(part, tmp_path: Path, monkeypatch) -> None:
    fuzz(part, 15, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_many_random_inputs_never_crash_a_command(part, tmp_path: Path, monkeypatch) -> None:
    fuzz(part, CASES[part], tmp_path, monkeypatch)
