"""The Python blocks of docs/python.md and the README run."""

import re
from pathlib import Path
from typing import Any

import pytest

import gptlab
from tests.conftest import ROOT, TINY


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_blocks_run(tmp_path: Path, monkeypatch, capsys, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (tmp_path / "my_novel.txt").write_text("Once upon a time. " + text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    train = gptlab.train

    def train_small(*overrides: str, **keys: Any) -> gptlab.Run:
        return train(*TINY, *overrides, profile="smoke", trainer={"max_steps": 2}, **keys)

    monkeypatch.setattr(gptlab, "train", train_small, raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out
    assert f"{names['run'].summary.valid_loss}" in printed and blocks
    assert printed.count("Once upon a time") >= 3
