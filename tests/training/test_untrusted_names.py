"""Files from strangers name modules of other packages, which are never imported."""

import contextlib
import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

import gptlab
from gptlab.app.schemas import GenerateRequest
from gptlab.config import sweeps
from gptlab.config.keys import keys_of
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.model import checkpoint
from gptlab.model.gpt import GPT
from gptlab.model.hf.gpt2 import config_from_gpt2
from gptlab.model.hf.pretrained import assemble_model
from gptlab.utils import plugins
from gptlab.utils.errors import UserError

EVIL = "evil:Part"
SOURCE = 'from pathlib import Path\nPath("imported").touch()\nPart = None'
KEYS = {name: info for name, info in keys_of(TrainConfig).items() if info.takes_plugins}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the module `evil`, importable from here, would write."""
    (tmp_path / "evil.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "imported"
    plugins.trusted.clear()
    sys.modules.pop("evil", None)


def test_every_table_takes_the_name_of_a_part() -> None:
    assert {key.removeprefix("model.") for key in KEYS} == {
        *("feed_forward", "position", "norm_type", "norm", "attention", "optim.name"),
        *("optim.schedule", "tokenizer.name", "data.source", "data.batching", "data.template"),
        *("eval_before", "eval_after", "log_interpretability"),
    }


@pytest.mark.parametrize("key", KEYS)
def test_no_name_in_a_run_folder_is_imported(command, trained: Path, evil: Path, key: str) -> None:
    (trained / "summary.json").unlink()
    path = trained / "checkpoints" / "last.ckpt"
    content = dict(checkpoint.read_checkpoint(path))
    group, _, last = key.rpartition(".")
    settings = content["config"][group] if group else content["config"]
    settings[last] = [*settings[last], EVIL] if isinstance(settings[last], list) else EVIL
    content["config"]["plugins"] = ["evil"]
    if group == "tokenizer":
        content["tokenizer"]["name"] = EVIL
    for stored in (trained / "checkpoints").iterdir():
        torch.save(content, stored)
    (trained / "config.yaml").write_text(yaml.safe_dump(content["config"]), encoding="utf-8")
    result = command("train", f"resume={trained}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{trained}: uses {EVIL}; if you trust that package, add plugins=[evil]" in result.err
    if group == "data":
        command("gptlab.evaluate", f"run={trained}", "suite=[perplexity]", "max_tokens=200")
    with pytest.raises(UserError) if group in ("model", "tokenizer") else contextlib.nullcontext():
        gptlab.load(trained)
    assert not evil.exists() and "evil" not in sys.modules
    with pytest.raises(UserError, match=r"evil\.py has no|must "):  # the test would see an import
        plugins.trust("evil")
        plugins.resolve_choice(key, EVIL, {"part": key.partition}, Path)
    assert evil.exists()


@pytest.mark.parametrize(("group", "key"), [("tokenizer", "name"), ("data", "template")])
def test_no_name_in_an_exported_folder_is_imported(evil: Path, group: str, key: str) -> None:
    net = GPT(ModelConfig(n_layer=1, n_head=1, d_model=8, context_length=8, vocab_size=4))
    exported = {
        "tokenizer": {"name": "char", "pieces": ["a", "b", "c"]},
        "data": {"task": "instructions", "template": "plain"},
    }
    assert assemble_model(net, Path("model"), exported).tokenizer.name == "char"
    exported[group][key] = EVIL
    with pytest.raises(UserError, match=f"uses {EVIL}; if you trust"):
        assemble_model(net, Path("model"), exported)
    with pytest.raises(UserError, match=f"{EVIL}: invalid choice"):  # config.json takes no parts
        config_from_gpt2({}, {"activation_function": EVIL})
    assert not evil.exists()


SAFE = ("model.feed_forward=gelu,mine.parts:X", "eval_after=['perplexity', 'mine.suites:X']")
UNSAFE = [
    *(
        "optim.name=evil:X",
        "optim.name=mine:X,evil:X",
        "+eval_after.1=evil:X",
        "optim.name=mine:X:Y",
    ),
    *(
        "optim.name='evil\\:X'",
        "optim.name=evil${a:b}X",
        "optim.name=mine.${name}",
        "plugins=[evil]",
    ),
    *("optim.name=evil'mine:X'", "plugins.0=evil", "++plugins=evil", "optim={name: 'mine:X'}"),
]


def test_a_stored_sweep_imports_only_what_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "trusted", {"mine"})
    assert all(map(sweeps.is_safe_override, SAFE))
    assert not any(map(sweeps.is_safe_override, UNSAFE))
    plugins.trusted.clear()
    assert not any(map(sweeps.is_safe_override, SAFE))


def test_no_name_in_a_request_to_the_page_is_accepted() -> None:
    assert GenerateRequest(template="plain").template == "plain"
    with pytest.raises(ValidationError):
        GenerateRequest(template=EVIL)


def test_no_name_in_a_corpus_is_imported(trained_once: Path, evil: Path) -> None:
    (source,) = (trained_once / "corpora").iterdir()
    folder = evil.parent / "corpus"
    shutil.copytree(source, folder)
    stored = json.dumps({"name": EVIL}).encode()
    (folder / "tokenizer.json").write_bytes(stored)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["files"]["tokenizer.json"] = zlib.crc32(stored)
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match=f"uses {EVIL}; if you trust"):
        _ = Corpus(folder).tokenizer
    assert not evil.exists()
