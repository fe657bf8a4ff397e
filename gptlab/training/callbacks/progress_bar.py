"""Show a run's progress: loss, speed, time left."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.utils.console import format_duration, in_notebook


class NotebookBar:
    """A progress bar of a notebook, used like tqdm; it needs no widgets."""

    def __init__(self, total: int, initial: int):
        from IPython.display import display

        self.total, self.n, self.text = total, float(initial), ""
        self.display = display(self, display_id=True)

    def set_description_str(self, text: str, refresh: bool) -> None:
        self.text = text

    def update(self, steps: float) -> None:
        self.n += steps
        self.display.update(self)

    def close(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"step {self.n:,.0f}/{self.total:,}  {self.text}"

    def _repr_html_(self) -> str:
        return f'<progress value="{self.n:.0f}" max="{self.total}"></progress> {self!r}'


class ProgressBar(StepCallback):
    """Update a bar on a terminal or in a notebook; print a line now and then elsewhere."""

    def __init__(self, metrics_logger: MetricsLogger, total_steps: int, expected_seconds: float):
        self.metrics_logger = metrics_logger
        self.total_steps = total_steps
        self.bar: tqdm | NotebookBar | None = None
        self.in_notebook = in_notebook()
        self.live = self.in_notebook or sys.stderr.isatty()
        # Formatting a line takes time, so not at every step.
        self.interval = 0.1 if self.live else max(10.0, expected_seconds / 60)  # seconds

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.first_step, self.start_time = self.step, time.perf_counter()
        self.last_shown = self.start_time
        self.enabled = trainer.is_global_zero
        if self.live and self.enabled:
            at_once: dict[str, Any] = {"mininterval": 0, "miniters": 0, "leave": False}
            layout = "{bar:24} {n_fmt}/{total_fmt}  {desc}"
            total, initial = self.total_steps, self.step
            if self.in_notebook:
                self.bar = NotebookBar(total, initial)
            else:
                self.bar = tqdm(total=total, initial=initial, bar_format=layout, **at_once)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        now = time.perf_counter()
        due = now - self.last_shown > self.interval or self.step == self.total_steps
        if not (self.enabled and due):
            return
        self.last_shown = now
        text = self.status_text(now)
        if self.bar is not None:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(self.step - self.bar.n)
        else:
            print(f"step {self.step:,}/{self.total_steps:,}  {text}", flush=True)

    def status_text(self, now: float) -> str:
        seconds_per_step = (now - self.start_time) / (self.step - self.first_step)
        latest = self.metrics_logger.latest
        formats = {
            "train/loss": "loss {:.3f}",
            "train/perplexity": "perplexity {:.4g}",
            "valid/loss": "valid {:.3f}",
            "train/tokens_per_second": "{:,.0f} tokens/s",
        }
        parts = [text.format(latest[name]) for name, text in formats.items() if name in latest]
        remaining = format_duration(seconds_per_step * (self.total_steps - self.step))
        return "  ".join([*parts, f"{remaining} left"])

    def on_train_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
