"""Names become parts: a table's own, or those of packages that the user trusts."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptlab.utils import plugins
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.plugins import PluginError, resolve_choice

pytestmark = pytest.mark.fast
TABLE: dict[str, Callable[[float, float], float]] = {"constant": max, "cosine": min}
MODULE = """
from pathlib import Path
Path("imported").touch()
number = 3
def rate(step, total): return 0.5
def one(step): return 0.5
class Rate: pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with `mine/rates.py`, which leaves a file when it is imported."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rates.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "trusted", set())
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def step_only(step: float, total: float) -> float:
    return step


def resolve(name: str) -> object:
    return resolve_choice("optim.schedule", name, {"constant": step_only, "cosine": step_only})


def test_invalid_choices_name_the_choices_and_the_nearest() -> None:
    assert resolve("cosine") is step_only
    with pytest.raises(UserError) as error:
        resolve("cosin")
    assert str(error.value) == (
        "optim.schedule=cosin: invalid choice; choose from constant, cosine; did you mean 'cosine'?"
    )
    assert did_you_mean("xyz", TABLE) == ""


@pytest.mark.parametrize("trusted", ["mine", "mine.rates", "mine.rates:rate"])
def test_a_part_of_a_trusted_package_is_imported_from_the_current_folder(
    folder: Path, trusted: str
) -> None:
    plugins.trust([trusted])
    part = resolve("mine.rates:rate")
    assert callable(part) and part(0, 1) == 0.5


@pytest.mark.parametrize("trusted", ["min", "mine.rate", "mine.rates:one", "rates", "other"])
def test_no_other_name_lets_a_package_be_imported(folder: Path, trusted: str) -> None:
    plugins.trust([trusted])
    with pytest.raises(PluginError) as error:
        resolve("mine.rates:rate")
    assert str(error.value) == (
        "optim.schedule: uses mine.rates:rate; if you trust that package, add plugins=[mine]"
    )
    assert not (folder / "imported").exists()


def test_an_installed_package_opens_no_way_to_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "mine").rename(folder / "elsewhere" / "mine")
    monkeypatch.syspath_prepend(str(folder / "elsewhere"))
    plugins.trust(["mine"])
    assert callable(resolve("mine.rates:rate"))
    assert str(folder) not in sys.path  # its files could pass for packages that are missing


def test_a_file_in_the_current_folder_replaces_no_module(folder: Path) -> None:
    (folder / "json.py").write_text("number = 1", encoding="utf-8")
    (folder / "this.py").write_text("number = 1", encoding="utf-8")
    del sys.modules["json"]  # restored below: as if nothing had imported it
    try:
        plugins.trust(["json"])
        with pytest.raises(PluginError, match="has no number"):
            resolve("json:number")
        assert Path(sys.modules["json"].__file__ or "").parent != folder
    finally:
        sys.modules["json"] = json


BROKEN = {
    "mine.absent:rate": "there is no mine.absent in {folder}{sep}mine)",
    "absent:rate": "there is no absent in {folder} and the installed packages)",
    "mine.rates:rat": "has no rat; did you mean 'rate'?",
    "mine.rates:number": "must be a function or class, not int",
    "mine.rates:one": "must take the arguments (step, total), but takes (step)",
    "mine.rates:Rate": "must take the arguments (step, total), but takes ()",
    "mine.needs:rate": "needs.py, line 2: ModuleNotFoundError: No module named 'no_such_package'",
    "mine.wrong:rate": "wrong.py, line 2: SyntaxError: ",
    "mine.fails:rate": "fails.py, line 3: ZeroDivisionError: division by zero",
    "mine.ends:rate": "ends.py, line 2: SystemExit: 3",
}
FILES = {
    "needs": "\nimport no_such_package",
    "wrong": "\nrate = (",
    "fails": "\ndef f():\n    1 / 0\nf()",
    "ends": "\nraise SystemExit(3)",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_part_is_refused_in_one_line_with_its_place(folder: Path, name: str) -> None:
    for file, content in FILES.items():
        (folder / "mine" / f"{file}.py").write_text(content, encoding="utf-8")
    plugins.trust(["mine", "absent"])
    with pytest.raises(PluginError) as error:
        resolve(name)
    line = str(error.value)
    assert line.startswith(f"optim.schedule={name}: ")
    assert BROKEN[name].format(folder=folder, sep=os.sep) in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["../mine", "mine rates", "", "mine:rates:x", "mine/rates", "-m"])
def test_a_text_that_is_no_package_is_not_trusted(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="must be the name of a package"):
        plugins.trust([name])


def test_plugins_among_positional_arguments_are_trusted(folder: Path) -> None:
    typed = ["runs/a", "plugins=[mine,b.c]", "plugins=['d']", "plugins=e,f", "x"]
    assert plugins.trust_arguments(typed) == ["runs/a", "x"]
    assert plugins.trusted == {"mine", "b.c", "d", "e", "f"}
