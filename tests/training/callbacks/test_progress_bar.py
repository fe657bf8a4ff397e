"""Progress where there is no terminal, and durations in words."""

from types import SimpleNamespace

import pytest

from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.utils.console import format_duration

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (41.2, "42 s"), (200, "3 min 20 s"), (18_600, "5 h 10 min")],
)
def test_durations_are_rounded_up_to_readable_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_lines_are_printed_at_intervals_and_at_the_end(capsys) -> None:
    metrics = {"train/loss": 2.0, "train/perplexity": 7.389, "train/tokens_per_second": 1234.0}
    bar = ProgressBar(SimpleNamespace(latest=metrics), total_steps=3, expected_seconds=1.0)
    trainer = SimpleNamespace(global_step=0, is_global_zero=True)
    bar.on_train_start(trainer, None)
    for step in (1, 2, 3):
        trainer.global_step = step
        bar.on_train_batch_end(trainer, None, None, None, 0)
    (line,) = capsys.readouterr().out.splitlines()  # less than ten seconds have passed
    assert line.startswith("step 3/3  loss 2.000  perplexity 7.389  1,234 tokens/s  0 s left")
