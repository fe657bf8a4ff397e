"""The short training loop: the same runs, bit for bit, in fewer calls."""

from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization

from gptlab.model import checkpoint
from gptlab.training.fast import fast_loop
from tests.faults.callbacks import Accident
from tests.faults.compare import assert_same, only
from tests.faults.listeners import SEEN
from tests.training.test_resume import SMALL, stop


def listening(name: str) -> str:
    return f"+callbacks.mine._target_=tests.faults.listeners.{name}"


@pytest.fixture
def both(command, tmp_path: Path, monkeypatch):
    """Trains by the short loop and by Lightning's; returns the folders, and what was seen."""

    def train(*arguments: str) -> tuple[list[Path], list[list[object]], list[int]]:
        folders, seen, calls = [], [], []
        whole = _AutomaticOptimization.run
        for short in ("true", "false"):
            count = [0]

            def counted(self, *arguments, count=count):
                count[0] += 1
                return whole(self, *arguments)

            monkeypatch.setattr(_AutomaticOptimization, "run", counted)
            SEEN.clear()
            result = command(
                "train", *SMALL, *arguments, f"trainer.fast_loop={short}", f"run_root={short}"
            )
            assert result.code == 0, result.err
            folders.append(only(tmp_path / short))
            seen.append(list(SEEN))
            calls.append(count[0])
        return folders, seen, calls

    return train


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["trainer.accumulate_grad_batches=1", "optim=sgd", "data.num_workers=1"],
        ["trainer.accumulate_grad_batches=3", "trainer.precision=bf16-mixed"],
    ],
)
def test_runs_and_counters_are_those_of_lightnings_loop(both, more: list[str]) -> None:
    (short, long), _, calls = both(*more)
    assert_same(short, long)
    states = [
        checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")["loops"]
        for run in (short, long)
    ]
    assert states[0] == states[1]
    assert calls[0] == 0 and calls[1] >= 12


def test_a_callback_hears_the_same_and_logs_as_ever(both) -> None:
    _, (short, long), calls = both(listening("Listener"))
    assert short == long and len(short) == 25 and short[-1] == 23.0
    assert calls == [0, 24]


@pytest.mark.parametrize(
    "more", [[listening("Between")], ["+trainer.extra.profiler=simple"]], ids=["hook", "profiler"]
)
def test_where_somebody_listens_in_between_the_loop_is_lightnings(both, more: list[str]) -> None:
    (short, long), seen, calls = both(*more)
    assert_same(short, long)
    assert calls == [24, 24] and seen[0] == seen[1]
    assert not seen[0] or (len(seen[0]) == 24 and all(seen[0]))


def test_hooks_on_the_instance_are_hooks() -> None:
    callback = LambdaCallback(on_train_batch_end=print, on_before_backward=print)
    found = [
        h
        for h in (*fast_loop.CALLED_HOOKS, *fast_loop.SKIPPED_HOOKS)
        if fast_loop.overrides_hook(callback, h)
    ]
    assert found == ["on_train_batch_end", "on_before_backward"]
    assert not fast_loop.overrides_hook(Callback(), "on_train_batch_end")


def test_a_run_goes_on_by_either_loop(command, both, tmp_path: Path) -> None:
    (whole, _), _, _ = both()
    for begins, ends in (("true", "false"), ("false", "true")):
        root = f"run_root={begins}_{ends}"
        with pytest.raises(Accident):
            command("train", *SMALL, *stop(7, part=1), f"trainer.fast_loop={begins}", root)
        run = only(tmp_path / f"{begins}_{ends}")
        again = command("train", f"resume={run}", "callbacks=none", f"trainer.fast_loop={ends}")
        assert again.code == 0, again.err
        assert_same(run, whole)
