"""Paste each block of docs/extending.md into the file that it names, and run its command."""

import importlib
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY

GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", GUIDE, re.S | re.M))
OWN_PACKAGE = "From your own package"  # tests/test_own_package.py
OWN_CHOICES = "From your own folder of choices"  # tests/config/test_config_dir.py
TABLES = {
    "gptlab.model.layers": ("FEED_FORWARDS", "POSITIONS", "NORMS"),
    "gptlab.training.optim": ("OPTIMIZERS", "SCHEDULES"),
    "gptlab.data.sources": ("SOURCES",),
    "gptlab.data.tokenizer": ("TOKENIZERS",),
    "gptlab.evaluation.suites": ("SUITES",),
}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.S | re.M)


@pytest.fixture
def restored_tables() -> Iterator[None]:
    tables = [
        getattr(importlib.import_module(module), name)
        for module, names in TABLES.items()
        for name in names
    ]
    saved = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, saved, strict=True):
        table.clear()
        table.update(entries)


def paste(code: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code as the end of an existing module, or as a new one."""
    name = path.removesuffix(".py").replace("/", ".")
    if not (ROOT / path).exists():
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
    else:
        module = importlib.import_module(name)
    added = set(re.findall(r"^(?:class|def) (\w+)", code, re.M))
    namespace = vars(module)
    exec(compile(code, path, "exec"), namespace)
    for each in added & set(namespace):
        if (ROOT / path).exists():
            monkeypatch.setitem(namespace, each, namespace.pop(each))


def test_the_guide_has_a_section_for_every_kind() -> None:
    kinds = ("feed-forward", "position", "norm", "optimizer", "schedule", "text source")
    kinds += ("tokenizer", "evaluation suite", "callback", OWN_PACKAGE, OWN_CHOICES)
    assert {name.removeprefix("An ").removeprefix("A ") for name in SECTIONS} == set(kinds)


@pytest.mark.parametrize("kind", sorted({*SECTIONS} - {OWN_PACKAGE, OWN_CHOICES}))
def test_a_part_of_the_guide_trains(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restored_tables, kind: str
) -> None:
    section = SECTIONS[kind]
    paths = re.findall(r"`((?:gptlab|conf)/[\w/]+\.(?:py|yaml))`", section)
    new = re.search(r"`(gptlab/[\w/]+/)`, here `(\w+\.py)`", section)
    files = [new[1] + new[2]] * bool(new) + paths if new else paths
    assert 1 <= len(files) <= 2
    sources = blocks(section, "python") + blocks(section, "yaml")
    for path, code in zip(files, sources, strict=True):
        if path.endswith(".py"):
            paste(code, path, monkeypatch)
        else:
            place = tmp_path / "choices" / Path(path).relative_to("conf")
            place.parent.mkdir(parents=True)
            place.write_text(code, encoding="utf-8")
    (line,) = blocks(section, "bash")
    arguments = [*shlex.split(line)[2:], *TINY, "profile=smoke"]
    if (tmp_path / "choices").is_dir():
        arguments = ["--config-dir", str(tmp_path / "choices"), *arguments]
    result = command("train", *arguments)
    assert result.code == 0, result.err
    if "callback" in kind:
        assert "gradient norm" in result.err
    if "suite" in kind:
        assert "exclamations" in next(tmp_path.glob("runs/*/summary.json")).read_text(
            encoding="utf-8"
        )


def test_the_guides_own_choice_is_used(command, tmp_path: Path) -> None:
    (path,) = re.findall(r"`(mine/[\w/]+\.yaml)`", SECTIONS[OWN_CHOICES])
    (text,), (line,) = (blocks(SECTIONS[OWN_CHOICES], each) for each in ("yaml", "bash"))
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    result = command("train", *shlex.split(line)[2:], "--cfg", "job")
    assert result.code == 0 and "d_model: 256" in result.out, result.err
