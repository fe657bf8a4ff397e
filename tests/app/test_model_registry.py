"""Names of runs and checkpoints."""

from pathlib import Path

from gptlab.app.model_registry import ModelRegistry
from tests.app.serving import find_run
from tests.app.test_run_history import make_run


def test_run_outside_the_root_has_a_unique_name(folder: Path, tmp_path: Path) -> None:
    story = find_run(folder, "story")
    make_run(tmp_path, story.name.encode(), "summary.json", b"{}")
    checkpoint = story / "checkpoints" / "last.ckpt"
    registry = ModelRegistry(tmp_path, checkpoint, 1, "cpu", "float32")
    run, name = registry.resolve(None, None)
    assert registry.checkpoints(run)[name] == checkpoint
    assert registry.runs()[story.name] == tmp_path / story.name
    make_run(tmp_path / "later", run.encode(), "summary.json", b"{}")
    registry.root = tmp_path / "later"
    assert registry.run_folder(run) == story


def test_least_recently_used_model_is_dropped(folder: Path) -> None:
    checkpoint = find_run(folder, "story") / "checkpoints" / "best.ckpt"
    registry = ModelRegistry(folder / "runs", checkpoint, 2, "cpu", "float32")
    run = registry.default[0]
    first = registry.load(run, "step_2")
    registry.load(run, "step_4")
    assert registry.load(run, "step_2") is first
    registry.load(run, "step_6")
    assert [path.stem for path, *_ in registry.models] == ["step_2", "step_6"]
