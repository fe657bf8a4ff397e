"""Parts of a package outside the repository: typed, stored, and trusted again."""

import json
import re
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from gptlab.app.model_registry import ModelRegistry
from gptlab.config.schema import ModelConfig
from gptlab.evaluation.interpretability import attention_maps
from gptlab.model.gpt import GPT
from gptlab.model.hf.gpt2 import to_gpt2_config
from gptlab.training import init_weights
from gptlab.training.fast import compiled_step
from gptlab.training.plugin_checks import check_cached_outputs
from gptlab.utils import plugins
from gptlab.utils.errors import UserError
from tests.conftest import TINY, SharedRun
from tests.test_extending import OWN_PACKAGE, SECTIONS, blocks

SECTION = SECTIONS[OWN_PACKAGE]
TRAIN, USE = ([shlex.split(line)[2:] for line in b.splitlines()] for b in blocks(SECTION, "bash"))
ARGUMENTS = [argument for line in TRAIN for argument in line]
PARTS = dict(a.split("=", 1) for a in ARGUMENTS if "mypkg" in a)
SMALL = [*TINY, "profile=smoke", "trainer.max_steps=2", "data.max_samples=200"]
DATA = ["data=text", "data.source=toy_stories"]
TRUST = "plugins=[mypkg]"
MARK = 'from pathlib import Path\nPath("imported").touch()\n'


def write_package(folder: Path) -> None:
    """Write the guide's package, which leaves a file when it is imported."""
    paths = re.findall(r"^`(mypkg/\w+\.py)`", SECTION, re.M)
    for path, code in zip(paths, blocks(SECTION, "python"), strict=True):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(code, encoding="utf-8")
    (folder / "mypkg" / "__init__.py").write_text(MARK, encoding="utf-8")


def forget_package() -> None:
    """Forget the package and its permission, as a new process would."""
    plugins.trusted.clear()
    for name in [name for name in sys.modules if re.match(r"(mypkg|evil)\b", name)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def own_run(train_once: Callable[..., SharedRun], tmp_path_factory) -> Iterator[SharedRun]:
    """A run with every kind of part of the guide's package."""
    place = tmp_path_factory.mktemp("installed")
    write_package(place)
    (place / "mypkg" / "__init__.py").unlink()  # leaves no file here
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        run = train_once(*ARGUMENTS, *SMALL, "plugins=[elsewhere]")
    forget_package()
    yield run
    forget_package()


@pytest.fixture
def copied(own_run: SharedRun, command, tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A copy of that run, in a current folder with the package."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = own_run.copy(tmp_path)
    write_package(tmp_path)
    yield folder
    forget_package()


def test_a_run_stores_the_names_and_no_permission(own_run: SharedRun) -> None:
    stored = yaml.safe_load((own_run.folder / "config.yaml").read_text(encoding="utf-8"))
    for key, name in PARTS.items():
        group, _, last = f".{key}".rpartition(".")
        value = (stored[group[1:]] if group else stored)[last]
        assert name == (f"[{','.join(value)}]" if isinstance(value, list) else value)
    assert stored["plugins"] == []
    assert f'python generate.py "{TRUST}"' in own_run.result.out
    summary = json.loads((own_run.folder / "summary.json").read_text(encoding="utf-8"))
    assert "digits/per_text" in summary["after"]
    assert ":" not in "".join(path.name for path in own_run.root.rglob("*"))  # not on Windows
    (corpus,) = (own_run.root / "corpora").iterdir()
    assert corpus.name.startswith("mypkg.texts.Counting-mypkg.texts.Bytes-")


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "generate": lambda folder: ("generate", f"run={folder}", "prompt=1 2", "max_new_tokens=3"),
    "evaluate": lambda folder: ("gptlab.evaluate", f"run={folder}", "suite=[perplexity]"),
    "export": lambda folder: ("gptlab.export", f"run={folder}", "output_dir=exported"),
    "resume": lambda folder: ("train", f"resume={folder}", "trainer.max_steps=3"),
    "init_from": lambda folder: ("train", f"init_from={folder}", *SMALL[5:], *DATA),
}


@pytest.mark.parametrize("name", [*COMMANDS, "app"])
def test_a_stored_name_is_not_imported(command, copied: Path, tmp_path: Path, name: str) -> None:
    if name == "app":
        arguments: tuple[str, ...] = ("gptlab.app.__main__", f"run={copied}", "port=0")
    else:
        arguments = COMMANDS[name](copied)
    before = sorted(tmp_path.rglob("*"))
    result = command(*arguments)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"/{copied.name}" in result.err
    assert re.search("uses .*mypkg.parts:ReGLU", result.err)
    assert result.err.endswith(f"; if you trust that package, add {TRUST}\n")
    assert "mypkg" not in sys.modules and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_trusted_package_is_imported(command, copied: Path, tmp_path: Path, name: str) -> None:
    result = command(*COMMANDS[name](copied), TRUST)
    assert (tmp_path / "imported").exists()
    if name == "export":  # transformers has no class for it
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "no model.norm_type=mypkg.parts:ScaleNorm" in result.err
    else:
        assert result.code == 0, result.err


def test_the_app_opens_a_trusted_run(copied: Path, tmp_path: Path) -> None:
    path = copied / "checkpoints" / "last.ckpt"
    registry = ModelRegistry(tmp_path / "runs", path, 1, "cpu", "float32")
    plugins.trust(["mypkg"])
    assert registry.load(*registry.default).net.config.position == PARTS["model.position"]


def test_a_typed_suite_of_another_package_runs(command, copied: Path) -> None:
    arguments = (f"run={copied}", f"suite=[{PARTS['eval_after'][12:-1]}]", "num_samples=2")
    result = command("gptlab.evaluate", *arguments)
    assert result.code == 2 and "uses mypkg.parts:" in result.err  # the suite only is typed
    result = command("gptlab.evaluate", *arguments, TRUST)
    assert result.code == 0 and "per_text" in result.out, result.err


def test_a_file_in_a_typed_folder_of_choices_may_name_a_part(
    command, copied: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    choice = tmp_path / "mine" / "optim" / "own.yaml"
    choice.write_text("name: mypkg.parts:rmsprop", encoding="utf-8")
    arguments = ("train", *SMALL, *DATA, "optim=own", "name=own")
    assert command(*arguments, "--config-dir", "mine").code == 0
    (folder,) = (tmp_path / "runs").glob("*_own")
    forget_package()
    result = command("train", f"resume={folder}", "trainer.max_steps=3")
    assert result.code == 2 and f"{folder}: uses mypkg.parts:rmsprop;" in result.err


def test_a_report_shows_an_untrusted_run_without_its_model(command, copied: Path) -> None:
    place = Path("report/index.html")
    assert command("gptlab.report.__main__", str(copied)).code == 0
    assert "if you trust that package" in place.read_text(encoding="utf-8")
    assert "mypkg" not in sys.modules
    assert command("gptlab.report.__main__", str(copied), TRUST).code == 0
    assert "if you trust that package" not in place.read_text(encoding="utf-8")


def test_the_guides_commands_for_a_stored_run_work(command, copied: Path) -> None:
    (copied / "summary.json").unlink()  # stopped just before its end
    for arguments in USE:
        module = "train" if "resume=latest" in arguments else "generate"
        assert command(module, *arguments).code == 0


def test_a_sweep_over_own_parts_trains_and_asks_again_when_resumed(
    command, copied: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "runs")
    swept = "model.feed_forward=gelu,mypkg.parts:ReGLU"
    result = command("train", "-m", *SMALL, *DATA, swept)
    assert result.code == 0, result.err
    (sweep,) = (tmp_path / "runs").iterdir()
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert jobs == ["0,model.feed_forward=gelu", "1,model.feed_forward=mypkg.parts-ReGLU"]
    assert ",mypkg.parts:ReGLU," in (sweep / "sweep.csv").read_text(encoding="utf-8")
    (sweep / "sweep.csv").unlink()
    (sweep / jobs[1] / "summary.json").unlink()
    forget_package()
    result = command("train", f"resume={sweep}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{swept}: stored in" in result.err and "type it again" in result.err
    assert "mypkg" not in sys.modules
    result = command("train", f"resume={sweep}", "plugins=mypkg")
    assert result.code == 0 and (sweep / jobs[1] / "summary.json").exists(), result.err


# --- Parts of the wrong kind ---

WRONG = '''
from torch import nn
from gptlab.model.layers import Positions
def none(*_): return None
def pair(config, more): return None
def make(config): return nn.Identity()
class Ignoring(Positions):
    """Ignores where a text starts."""
    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.context_length, config.d_model)
        nn.init.normal_(self.table.weight)
    def add(self, x, start=0): return x + self.table.weight[: x.shape[1]]
class Plain: pass
def narrow(config): return nn.Linear(config.d_model, 1)
def first(x, norm, sublayer): return x[:, :1]
def doubled(q, k, v, causal, dropout): return v.repeat(1, 1, 1, 2)
def rate(step, total, config): return "fast"
def optimizer(groups, config, fused): return groups
'''
REFUSED = {
    "model.feed_forward=mypkg.wrong:none": "must make an nn.Module, not NoneType",
    "model.norm_type=mypkg.wrong:pair": "must take the arguments (config), but takes (config, more",
    "model.position=mypkg.wrong:make": "must make Positions, not Identity",
    "model.position=mypkg.wrong:Ignoring": "count positions from `start`",
    "model.feed_forward=mypkg.wrong:narrow": "the shape (1, 2, 16) that it gets, not (1, 2, 1)",
    "model.norm=mypkg.wrong:first": "the shape (1, 2, 16) that it gets, not (1, 1, 16)",
    "model.attention=mypkg.wrong:doubled": "the shape (1, 2, 2, 8) that it gets, not (1, 2, 2, 16)",
    "model.norm=mypkg.wrong:none": "the shape (1, 2, 16) that it gets, not NoneType",
    "model.attention=mypkg.wrong:make": "must take the arguments (q, k, v, causal, dropout)",
    "optim.name=mypkg.wrong:optimizer": "must make a torch Optimizer, not list",
    "optim.name=torch.optim:LBFGS": "needs a closure",
    "optim.name=torch.optim:Muon": "only supports 2D",
    "optim.schedule=mypkg.wrong:rate": "must return a number, not str",
    "tokenizer.name=mypkg.wrong:Plain": "must be a class with the methods train, from_state",
    "data.source=mypkg.wrong:Plain": "must be a subclass of TextSource",
    "data.batching=mypkg.wrong:Plain": "must be a subclass of DocumentSequences or SlidingSeq",
    "eval_before=[mypkg.wrong:none]": "must be a Suite, not function",
    "eval_after=[perplexity,mypkg.absent:none]": "there is no mypkg.absent",
    "model.feed_forward=mypkg.wrong.none": "choose from relu, gelu, gelu_tanh",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_part_of_the_wrong_kind_is_refused_in_one_line(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "wrong.py").write_text(WRONG, encoding="utf-8")
    try:
        result = command("train", *SMALL, *DATA, override)
    finally:
        forget_package()
    assert (result.code, result.err.splitlines()[-1][:7]) == (2, "error: ")
    assert REFUSED[override] in result.err and "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


# --- Attention that computes something else than gptlab's own ---


def last_two(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Attend to a token and the one before it only, with equal weights."""
    T, S = q.shape[2], k.shape[2]
    near = torch.ones(T, S).tril(S - T).triu(S - T - 1)
    return near / near.sum(dim=1, keepdim=True) @ v


@pytest.fixture
def own_attention(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    module = types.ModuleType("own_attention")
    monkeypatch.setattr(module, "last_two", last_two, raising=False)
    monkeypatch.setitem(sys.modules, "own_attention", module)
    monkeypatch.setattr(plugins, "trusted", {"own_attention"})
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 8, "context_length": 8, "vocab_size": 5}
    return ModelConfig(**sizes, feed_forward="gelu_tanh", attention="own_attention:last_two")


def test_attention_maps_show_what_another_function_computes(own_attention: ModelConfig) -> None:
    (weights_HxTxT,) = attention_maps(GPT(own_attention), [0, 1, 2])
    torch.testing.assert_close(
        weights_HxTxT, torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]]).expand(2, 3, 3)
    )


def test_another_attention_function_is_never_replaced(own_attention: ModelConfig) -> None:
    net = GPT(own_attention)
    check_cached_outputs(net, torch.tensor([[0, 1, 2, 3]]))
    with compiled_step.compiler_friendly(net, 4):
        assert net.blocks[0].attention.attend is last_two
    finetuned = init_weights.adopt_structure(ModelConfig(), own_attention)
    assert finetuned.attention == own_attention.attention
    with pytest.raises(UserError, match=r"no model\.attention=own_attention:last_two"):
        to_gpt2_config(own_attention)
