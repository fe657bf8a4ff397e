"""Steps and epochs as callbacks count them."""

from types import SimpleNamespace

import pytest

from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.run_plan import RunPlan

pytestmark = pytest.mark.fast


def test_on_step_is_called_once_per_optimizer_step() -> None:
    steps = []

    class Recorder(StepCallback):
        def on_step(self, trainer, module, batch) -> None:
            steps.append((self.step, batch))

    callback, trainer = Recorder(), SimpleNamespace(global_step=5)
    callback.on_train_start(trainer, None)  # a resumed run
    for micro_batch in range(6):
        trainer.global_step = 5 + (micro_batch + 1) // 2  # two micro-batches per step
        callback.on_train_batch_end(trainer, None, None, micro_batch, micro_batch)
    assert steps == [(6, 1), (7, 3), (8, 5)]


def test_an_epoch_is_complete_with_the_step_that_sees_its_last_sequence() -> None:
    plan = SimpleNamespace(shape=SimpleNamespace(sequences_per_step=4), sequences_per_epoch=10)
    epochs = [RunPlan.completed_epoch(plan, step) for step in range(1, 11)]
    assert epochs == [None, None, 1, None, 2, None, None, 3, None, 4]
