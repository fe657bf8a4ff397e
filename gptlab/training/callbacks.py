"""What happens beside the steps: metrics, checkpoints, interruption.

All count in optimizer steps. Nothing here draws from the global random state.
"""

import contextlib
import csv
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from gptlab.config import TrainerConfig
from gptlab.errors import UserError
from gptlab.model.loss import perplexity
from gptlab.training.checkpoint import link
from gptlab.training.plan import Plan

COLUMNS = [
    *("step", "tokens", "epoch", "train/loss", "train/perplexity", "train/lr"),
    *("train/gradient_norm", "train/tokens_per_second", "valid/loss", "valid/perplexity"),
    *("valid/bits_per_byte", "valid/best_possible", "train/epoch_loss"),
]


class StepCallback(Callback):
    """Calls `on_step` once an optimizer step, after its last micro-batch."""

    step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.on_step(trainer, module, batch)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """After optimizer step number `self.step`, counted from 1."""


class Meter(StepCallback):
    """Gathers loss and speed, and writes them to metrics.csv and to the loggers.

    Losses stay on the device between two lines of the log: no step waits for them.
    """

    def __init__(
        self, folder: Path, plan: Plan, trainer: TrainerConfig, best_possible: float | None
    ):
        self.path = folder / "metrics.csv"
        self.plan = plan
        self.log_every = trainer.log_every
        self.say_epochs = trainer.max_epochs is not None
        self.best_possible = best_possible
        self.nats: torch.Tensor | float = 0.0
        self.tokens = 0  # targets since the last line
        self.tokens_seen = 0
        self.paused_seconds = 0.0  # in validation, samples and checkpoints since the last line
        self.epoch_nats = 0.0
        self.epoch_tokens = 0
        self.rate = 0.0
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        if trainer.is_global_zero:
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerow(COLUMNS)

        self.began = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in which the run does not train, left out of the speed."""
        began = time.perf_counter()
        yield
        self.paused_seconds += time.perf_counter() - began

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.rate = optimizer.param_groups[0]["lr"]  # before the scheduler moves on

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.nats = self.nats + outputs["nats"]
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        self.tokens += batch["step_tokens"]
        self.tokens_seen += batch["step_tokens"]
        epoch = epoch_ended(self.plan, self.step)
        if self.step % self.log_every and self.step != self.plan.steps and not epoch:
            return
        nats = torch.as_tensor(self.nats, device=module.device)
        loss = float(trainer.strategy.reduce(nats, reduce_op="sum")) / self.tokens
        now = time.perf_counter()
        seconds = now - self.began - self.paused_seconds
        metrics = {
            "train/loss": loss,
            "train/perplexity": perplexity(loss),
            "train/lr": self.rate,
            "train/gradient_norm": float(module.gradient_norm),
            "train/tokens_per_second": self.tokens / max(seconds, 1e-9),
        }
        self.epoch_nats += loss * self.tokens
        self.epoch_tokens += self.tokens
        if epoch:
            metrics["train/epoch_loss"] = self.epoch_nats / self.epoch_tokens
            self.epoch_nats, self.epoch_tokens = 0.0, 0
            if self.say_epochs and trainer.is_global_zero:
                tqdm.write(f"epoch {epoch}: average loss {metrics['train/epoch_loss']:.4f}")
        self.nats, self.tokens = 0.0, 0
        self.began, self.paused_seconds = now, 0.0
        self.write(trainer, metrics)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.step}: training diverged; take a lower optim.lr "
                "or a longer optim.warmup_steps; the checkpoints before are kept"
            )

    def on_validation_start(self, *_: Any) -> None:
        self.validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.paused_seconds += time.perf_counter() - self.validation_began
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("valid/")
        }
        if self.best_possible is not None:
            metrics["valid/best_possible"] = self.best_possible
        self.write(trainer, metrics)

    def write(self, trainer: Trainer, metrics: dict[str, float], remember: bool = True) -> None:
        """To metrics.csv and the loggers, at the step at hand; `latest` goes into checkpoints."""
        self.latest |= metrics if remember else {}
        if not trainer.is_global_zero:
            return
        place = {
            "step": self.step,
            "tokens": self.tokens_seen,
            "epoch": self.step * self.plan.shape.rows_per_step / self.plan.rows_per_epoch,
        }
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(place | metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"train/tokens": place["tokens"]}, step=self.step)


class Checkpoints(StepCallback):
    """best.ckpt by validation loss, last.ckpt, and, where asked, epoch_N.ckpt and step_N.ckpt."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        meter: Meter,
        content: dict[str, Any],
        every: int,
        every_epoch: bool,
        keep_steps: bool,
    ):
        self.folder = folder / "checkpoints"
        self.plan = plan
        self.meter = meter
        self.content = content  # config and tokenizer, as plain values
        self.every = every
        self.every_epoch = every_epoch
        self.keep_steps = keep_steps
        self.best = math.inf
        self.saved_step = -1
        self.saved = self.folder

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        facts = {"tokens": self.meter.tokens_seen, "steps": self.plan.steps, **self.meter.latest}
        checkpoint.update(self.content, gptlab=facts)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.every_epoch and (epoch := epoch_ended(self.plan, self.step)):
            self.save(trainer, f"epoch_{epoch}")
        if self.every and self.step % self.every == 0:
            self.save(trainer, "last")
            if self.keep_steps:
                self.save(trainer, f"step_{self.step}")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        loss = float(trainer.callback_metrics["valid/loss"])
        if loss < self.best:
            self.best = loss
            self.save(trainer, "best")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, "last")

    def save(self, trainer: Trainer, name: str) -> None:
        """Written once a step; under a further name it is the same file, by a link."""
        path = self.folder / f"{name}.ckpt"
        with self.meter.paused():
            if self.step != self.saved_step:
                trainer.save_checkpoint(path, weights_only=False)
                self.saved_step, self.saved = self.step, path
            elif trainer.is_global_zero and path != self.saved:
                link(self.saved, path)


class Interruption(StepCallback):
    """Ctrl-C and SIGTERM end the run after the step at hand; a second one ends it at once."""

    signal: int | None = None  # the one that came

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}  # the handlers to put back

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        # Here, not in setup: Lightning installs handlers of its own in between.
        self.before = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}

    def receive(self, number: int, _frame: Any) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print("\nstopping after this step; again to leave at once", file=sys.stderr, flush=True)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        asked = self.signal is not None
        if trainer.world_size > 1:  # a signal to one process stops all, after the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        trainer.should_stop = trainer.should_stop or asked

    def on_train_end(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    on_exception = on_train_end


def epoch_ended(plan: Plan, step: int) -> int | None:
    """The number of the epoch whose last row this step trained on, counted from 1."""
    after = step * plan.shape.rows_per_step // plan.rows_per_epoch
    before = (step - 1) * plan.shape.rows_per_step // plan.rows_per_epoch
    return after if after > before else None
