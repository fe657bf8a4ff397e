"""What a run shows while it trains."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback


class ProgressBar(StepCallback):
    """One live bar on a terminal; elsewhere a plain line now and then."""

    def __init__(self, meter: MetricsLogger, steps: int, expected: float):
        self.meter = meter
        self.steps = steps
        self.bar: tqdm | None = None
        self.live = sys.stderr.isatty()
        # Seconds between two looks: a line is not worth putting together for each step.
        self.every = 0.1 if self.live else max(10.0, expected / 60)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.first, self.began = self.step, time.perf_counter()
        self.said = self.began
        self.show = trainer.is_global_zero
        self.bar = tqdm(
            total=self.steps,
            initial=self.step,
            disable=not (self.live and self.show),
            bar_format="{bar:24} {n_fmt}/{total_fmt}  {desc}",
            leave=False,
            mininterval=0,
            miniters=0,
        )

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        now = time.perf_counter()
        if not self.show or (self.step != self.steps and now - self.said <= self.every):
            return
        self.said = now
        if self.live:
            self.bar.set_description_str(self.words(now), refresh=False)
            self.bar.update(self.step - self.bar.n)
        else:
            print(f"step {self.step:,}/{self.steps:,}  {self.words(now)}", flush=True)

    def words(self, now: float) -> str:
        left = (now - self.began) / (self.step - self.first) * (self.steps - self.step)
        latest = self.meter.latest
        words = []
        if "train/loss" in latest:
            words.append(f"loss {latest['train/loss']:.3f}")
            words.append(f"perplexity {latest['train/perplexity']:.4g}")
        if "valid/loss" in latest:
            words.append(f"valid {latest['valid/loss']:.3f}")
        if "train/loss" in latest:
            words.append(f"{latest['train/tokens_per_second']:,.0f} tokens/s")
        return "  ".join([*words, f"{format_duration(left)} left"])

    def on_train_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    on_exception = on_train_end


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 10 min`."""
    seconds = max(0, math.ceil(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
