"""Files from strangers are refused in one line; nothing in them is imported or executed."""

import copy
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.config.schema import ModelConfig
from gptlab.model import checkpoint, size
from gptlab.model.gpt import GPT
from gptlab.utils import run_dir
from gptlab.utils.device import resident_memory
from gptlab.utils.errors import UserError
from tests.conftest import TINY

SMALL = [*TINY, "profile=smoke", "data.max_samples=60", "data.final_tokens=400"]
TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["ran"]}}
BOARD = "lightning.pytorch.loggers.TensorBoardLogger"


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


class Huge:
    """Makes the unpickler itself allocate more memory than exists."""

    def __reduce__(self):
        return (bytearray, (1 << 62,))


def zip_bomb(compressed: bool) -> bytes:
    """A small archive that claims large contents."""
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 24 if compressed else 1 << 16))
        if not compressed:  # the same bytes under many names
            (first,) = archive.infolist()
            for number in range(1000):
                again = copy.copy(first)
                again.filename = again.orig_filename = f"archive/data/{number}"
                archive.filelist.append(again)
                archive._didModify = True
    return file.getvalue()


def model_sizes(**sizes: Any) -> Callable[[dict], None]:
    return lambda content: content["config"]["model"].update(sizes)


def set_value(*path: str, value: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


STRETCHED = torch.zeros(1).expand(1 << 50)  # four bytes that claim to be petabytes
CHANGES: dict[str, Callable[[dict], None]] = {
    "many layers": model_sizes(n_layer=10**12),
    "wide": model_sizes(d_model=2**40, n_head=1),
    "wider than can be counted": model_sizes(d_model=2**62, n_head=1),
    "beyond numbers": model_sizes(d_ff=10**25),
    "wide and odd": model_sizes(d_model=10**15 + 1),
    "long": model_sizes(context_length=2**45, position="sinusoidal"),
    "large vocabulary": model_sizes(vocab_size=2**45),
    "no heads": model_sizes(n_head=0),
    "negative": model_sizes(d_model=-16),
    "words for numbers": model_sizes(n_layer="many"),
    "unknown part": model_sizes(position="../../x"),
    "unknown key": model_sizes(hook="os.system"),
    "stretched": set_value("state_dict", "net.embedding.weight", value=STRETCHED),
    "foreign weight": set_value("state_dict", "net.extra", value=torch.zeros(2)),
    "no tensor": set_value("state_dict", "net.embedding.weight", value="weights"),
    "vocabulary": set_value("tokenizer", "pieces", value=["a"] * 10**6),
    "half a character": set_value("tokenizer", "pieces", value=["\ud800"]),
    "tokenizer": set_value("tokenizer", "name", value="os.system"),
    "step": set_value("global_step", value="last"),
    "model": set_value("config", "model", value=None),
}
ON_DISK = {
    "reduce": lambda content: torch_bytes({**content, "x": Malicious()}),
    "huge": lambda content: torch_bytes({**content, "x": Huge()}),
    "pickle": lambda content: pickle.dumps(Malicious()),
    "compressed": lambda content: zip_bomb(compressed=True),
    "overlapping": lambda content: zip_bomb(compressed=False),
    "bare": lambda content: torch_bytes(Malicious()),
}


def torch_bytes(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def valid_content() -> dict:
    """The content of a valid checkpoint."""
    config = ModelConfig(n_layer=1, n_head=2, d_model=16, context_length=8, vocab_size=4)
    weights = {f"net.{name}": weight for name, weight in GPT(config).state_dict().items()}
    return {
        "state_dict": weights,
        "config": {"model": vars(config), "data": {"eot_first": False}},
        "tokenizer": {"name": "char", "pieces": ["a", "b", "c"], "unknown": "error"},
        "global_step": 3,
    }


def test_the_valid_checkpoint_loads(valid_content: dict, tmp_path: Path) -> None:
    (tmp_path / "valid.ckpt").write_bytes(torch_bytes(valid_content))
    assert checkpoint.load_checkpoint(tmp_path / "valid.ckpt").step == 3


@pytest.mark.parametrize("name", [*CHANGES, *ON_DISK])
def test_a_malicious_checkpoint_is_refused(
    valid_content: dict, tmp_path: Path, monkeypatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = copy.deepcopy(valid_content)
    if name in CHANGES:
        CHANGES[name](content)
    path = tmp_path / "strange.ckpt"
    path.write_bytes(ON_DISK[name](content) if name in ON_DISK else torch_bytes(content))
    before = resident_memory()
    with pytest.raises(UserError) as refused:
        checkpoint.load_checkpoint(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["strange.ckpt"]  # nothing was executed
    assert resident_memory() - before < 100e6


@pytest.fixture
def unfinished(command, train_once, tmp_path: Path) -> tuple[Path, dict]:
    """A run that can be resumed, and the content of its checkpoint."""
    run = train_once(*SMALL).copy(tmp_path)
    (run / "summary.json").unlink()  # as if it had been stopped just before its end
    content = checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    return run, content


RUN_CHANGES = {
    "a class": set_value("config", "logger", value={"board": TOUCH}),
    "a class in a setting": set_value(
        "config", "logger", value={"tensorboard": {"_target_": BOARD, "name": TOUCH}}
    ),
    "a class in a list": set_value("config", "callbacks", value={"mine": {"x": [[TOUCH]]}}),
    "an interpolation": set_value(
        "config",
        "callbacks",
        value={
            "early_stopping": {
                "_target_": "lightning.pytorch.callbacks.EarlyStopping",
                "monitor": "${oc.create:{_target_:pathlib.Path.touch,self:{_target_:pathlib.Path,"
                "_args_:[ran]}}}",
            }
        },
    ),
    "arguments": set_value(
        "config", "logger", value={"board": {"_target_": BOARD, "_args_": ["elsewhere"]}}
    ),
    "strange decisions": set_value("gptlab", "resolved", value={"foo.bar": 1}),
    "no decisions": set_value("gptlab", "resolved", value=5),
    "threads": set_value("gptlab", "resolved", value={"trainer.num_threads": "a"}),
    "a command without an end": set_value("gptlab", "command", value="python 'train.py"),
    "no state": set_value("callbacks", value=None),
    "no configuration": set_value("config", value=5),
    "a path": set_value(
        "config", "logger", value={"board": {"_target_": BOARD, "save_dir": "../elsewhere"}}
    ),
    "a path from the root": set_value(
        "config", "logger", value={"board": {"_target_": BOARD, "name": "/tmp/elsewhere"}}
    ),
    "a corpus elsewhere": set_value("gptlab", "corpus", value="../../corpus"),
    "an instantiator": set_value(
        "hyper_parameters", value={"_instantiator": "os.system", "_class_path": "os.system"}
    ),
    "strange loops": set_value("loops", value={"fit_loop": {"state_dict": "x"}}),
    "no optimizer": set_value("optimizer_states", value=[]),
    "a strange optimizer": set_value("optimizer_states", value=[{"state": {}, "param_groups": 7}]),
    "strange callbacks": set_value("callbacks", value={"MetricsLogger": 3}),
}


@pytest.mark.parametrize("name", list(RUN_CHANGES))
def test_a_malicious_run_is_not_resumed(command, tmp_path, unfinished, name: str) -> None:
    run, content = unfinished
    RUN_CHANGES[name](content)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    result = command("train", f"resume={run}")
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == ["corpora", "runs"]  # nothing was executed
    if name == "an instantiator":  # gptlab never reads it
        assert result.code == 0, result.err
    else:
        assert (result.code, result.err.count("\n")) == (2, 1), result.err
        assert not run_dir.is_finished(run)


@pytest.mark.parametrize("key", ["model.n_layer", "model.d_model", "model.context_length"])
def test_a_model_larger_than_memory_is_refused_before_it_is_built(
    command, tmp_path, key: str
) -> None:
    result = command("train", *SMALL, f"{key}={2**40}")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "its weights need" in result.err or "larger than any memory" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_predicted_size_equals_the_built_model(tied: bool, position: str) -> None:
    config = ModelConfig(n_layer=3, d_model=16, vocab_size=7, tied_head=tied, position=position)
    net = GPT(config)
    sizes = {id(t): t.numel() * 4 for t in (*net.parameters(), *net.buffers())}
    assert size.weight_bytes(config) == sum(sizes.values())


@pytest.mark.parametrize(
    "override",
    [
        "+callbacks.x={_target_: os.system, command: id}",
        "logger.tensorboard.save_dir=/tmp",
        "hydra.sweep.dir=/tmp/elsewhere",
        "--config-dir=/tmp",
        "experiment=../../elsewhere",
        "+data@data=/tmp/elsewhere",
        "plugins=[evil]",
        "++plugins=[evil]",
        "plugins.0=evil",
        "model.feed_forward=gelu,evil:Part",
        "+optim.name=evil:part",
        "eval_after.0=evil:SUITE",
        "eval_after=[perplexity,'evil\\:SUITE']",
        "optim.name=evil${oc.env:COLON}part",
    ],
)
def test_a_malicious_sweep_is_not_resumed(command, tmp_path: Path, override: str) -> None:
    sweep = tmp_path / "runs" / "strange_sweep"
    sweep.mkdir(parents=True)
    content = {"arguments": ["-m", *SMALL, "seed=1,2", override], "command": "python train.py"}
    (sweep / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
    result = command("train", f"resume={sweep}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "could run foreign code" in result.err
    assert [path.name for path in sweep.iterdir()] == ["sweep.json"]
