"""docs/notebook.ipynb runs from top to bottom and shows what it promises."""

from pathlib import Path

import pytest

from tests.conftest import ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
STEPS = 'trainer={"max_steps": 150}'


def test_the_notebook_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # set by commands that ran in this process
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert sum(cell.source.count(STEPS) for cell in notebook.cells) == 3
    for cell in notebook.cells:
        cell.source = cell.source.replace(STEPS, 'profile="smoke"')
    mistake = nbformat.v4.new_code_cell(
        "gptlab.train(sede=1)", metadata={"tags": ["raises-exception"]}
    )
    notebook.cells.append(mistake)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=None, resources=resources).execute()

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    install, train, card, generate, metrics, scores, attention, compare, mistake = code
    assert not install.outputs  # nothing was installed
    streams = [output for cell in code for output in cell.outputs if output.output_type == "stream"]
    assert {stream.name for stream in streams} == {"stdout"}
    assert "\r" not in "".join(stream.text for stream in streams)
    html = {cell.source: shown_as(cell, "text/html") for cell in code}
    assert '<progress value="2" max="2">' in html[train.source]
    assert "validation loss" in html[card.source] and "<table" in html[metrics.source]
    assert generate.outputs[0].text.count("Once upon a time") == 3
    assert "image/png" in attention.outputs[0].data
    last_line = compare.outputs[-1].text.splitlines()[-1]
    assert all(map(float, last_line.split())) and scores.outputs
    (error,) = mistake.outputs
    assert error.traceback == ["error: sede: unknown key; did you mean 'seed'?"]


def shown_as(cell, mime: str) -> str:
    return "".join(output.data.get(mime, "") for output in cell.outputs if "data" in output)
