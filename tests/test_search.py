"""The search in docs/sweeps.md, with the current Optuna."""

import re
from pathlib import Path
from typing import Any

import pytest

import gptlab
from tests.conftest import ROOT


def test_a_search_minimizes_the_loss_and_survives_refused_runs(tmp_path: Path, monkeypatch) -> None:
    """The page's script with fewer trials of a smaller model; the second one is refused."""
    optuna = pytest.importorskip("optuna", reason='pip install "gptlab[optuna]"')
    monkeypatch.chdir(tmp_path)
    train = gptlab.train

    def train_tiny(*overrides: str, name: str, model: dict[str, Any], **keys: Any) -> gptlab.Run:
        model |= {"n_head": 3 if name == "trial_1" else 2, "d_model": 16, "d_ff": 32}
        keys |= {"profile": "smoke", "log_interpretability": [], "logger": "none"}
        return train(name=name, model=model, data={"max_samples": 100}, **keys)

    monkeypatch.setattr(gptlab, "train", train_tiny, raising=False)
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    searched: dict[str, Any] = {"__name__": "search"}
    exec(script.replace("n_trials=20", "n_trials=3"), searched)

    study = optuna.load_study(study_name="rate", storage="sqlite:///search.db")
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    losses = [
        gptlab.Run(path.parent).summary.valid_loss for path in Path("runs").glob("*/summary.json")
    ]
    assert len(losses) == 2 and study.best_value == min(losses)
    best = gptlab.Run(study.best_trial.user_attrs["folder"])
    assert best.config["optim"]["lr"] == study.best_params["lr"]
