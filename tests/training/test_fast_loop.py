"""The fast training loop: the same runs bit for bit as Lightning's loop, in fewer calls."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization

from gptlab.model import checkpoint
from gptlab.training.fast import fast_loop
from tests.conftest import TINY
from tests.faults.compare import assert_identical_runs
from tests.faults.listeners import SEEN

SETTINGS = [
    *TINY,
    *("model.dropout=0.1", "trainer.max_steps=12", "trainer.eval_every=4", "trainer.log_every=3"),
    *("trainer.accumulate_grad_batches=2", "data.batch_size=4", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=3", "trainer.sample_every=4", "max_new_tokens=5"),
    *("data.max_samples=60", "data.final_tokens=400"),
]
FAST, LIGHTNING = "trainer.fast_loop=true", "trainer.fast_loop=false"


def listener(name: str) -> str:
    return f"+callbacks.mine._target_=tests.faults.listeners.{name}"


LISTENING = (*SETTINGS, listener("Listener"))


class ObservedRun(NamedTuple):
    folder: Path
    seen: list[object]  # what its listener recorded
    lightning_calls: int  # of Lightning's own optimization


@pytest.fixture(scope="session")
def observations() -> dict[tuple[str, ...], tuple[list[object], int]]:
    return {}


@pytest.fixture
def train(train_once, observations, monkeypatch) -> Callable[..., ObservedRun]:
    """Train, and record what happens in the loop."""

    def run(*arguments: str) -> ObservedRun:
        calls = []
        optimize = _AutomaticOptimization.run

        def count_call(self, *arguments):
            calls.append(1)
            return optimize(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(_AutomaticOptimization, "run", count_call)
            SEEN.clear()
            folder = train_once(*arguments).folder
        seen, count = observations.setdefault(arguments, (list(SEEN), len(calls)))
        return ObservedRun(folder, seen, count)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        LISTENING,
        (*SETTINGS, "trainer.accumulate_grad_batches=1", "optim=sgd", "data.num_workers=1"),
        (*SETTINGS, "trainer.accumulate_grad_batches=3", "trainer.precision=bf16-mixed"),
    ],
    ids=["listening", "sgd", "bf16"],
)
def test_fast_runs_and_counters_equal_lightnings_loop(train, arguments: tuple[str, ...]) -> None:
    fast, lightning = train(*arguments, FAST), train(*arguments, LIGHTNING)
    assert_identical_runs(fast.folder, lightning.folder)
    fast_counters, counters = (
        checkpoint.read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["loops"]
        for run in (fast, lightning)
    )
    assert fast_counters == counters
    assert fast.lightning_calls == 0 and lightning.lightning_calls >= 12


def test_callbacks_log_the_same_in_both_loops(train) -> None:
    fast, lightning = train(*LISTENING, FAST), train(*LISTENING, LIGHTNING)
    assert fast.seen == lightning.seen and len(fast.seen) == 25 and fast.seen[-1] == 23.0
    assert (fast.lightning_calls, lightning.lightning_calls) == (0, 24)


@pytest.mark.parametrize(
    "argument", [listener("Between"), "+trainer.extra.profiler=simple"], ids=["hook", "profiler"]
)
def test_lightnings_loop_runs_where_it_is_needed(train, argument: str) -> None:
    """For a hook between the calls of the fast loop, and for a profiler."""
    run = train(*SETTINGS, argument, FAST)
    assert_identical_runs(run.folder, train(*LISTENING, LIGHTNING).folder)
    assert run.lightning_calls == 24
    assert run.seen == ([True] * 24 if "listeners" in argument else [])


def test_runs_are_the_same_without_the_fast_package(train, monkeypatch) -> None:
    monkeypatch.setattr("gptlab.training.train.fast", None)
    run = train(*SETTINGS, "name=without_fast")
    assert_identical_runs(run.folder, train(*LISTENING, FAST).folder)
    assert run.lightning_calls == 24


@pytest.mark.fast
def test_hooks_of_a_class_and_of_an_instance_are_found() -> None:
    callback = LambdaCallback(on_train_batch_end=print, on_before_backward=print)
    overridden = [
        hook
        for hook in (*fast_loop.CALLED_HOOKS, *fast_loop.SKIPPED_HOOKS)
        if fast_loop.overrides_hook(callback, hook)
    ]
    assert overridden == ["on_train_batch_end", "on_before_backward"]
    assert not fast_loop.overrides_hook(Callback(), "on_train_batch_end")


@pytest.mark.parametrize(("first", "second"), [(FAST, LIGHTNING), (LIGHTNING, FAST)])
def test_a_run_resumes_with_the_other_loop(
    command, train, train_once, tmp_path: Path, first: str, second: str
) -> None:
    stop = "+callbacks.stop={_target_: tests.faults.callbacks.StopAtStep, step: 7, part: 1}"
    run = train_once(*SETTINGS, stop, first).copy(tmp_path)
    assert not (run / "summary.json").exists()
    result = command("train", f"resume={run}", "callbacks=none", second)
    assert result.code == 0, result.err
    assert_identical_runs(run, train(*LISTENING, FAST).folder)
