"""Collect loss and speed for metrics.csv, the loggers and the progress bar."""

import contextlib
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.model.loss import perplexity
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.run_plan import TrainingSetup
from gptlab.utils.elapsed_time import ElapsedTime

METRIC_COLUMNS = [
    *("step", "tokens", "epoch", "train/loss", "train/perplexity", "train/lr"),
    *("train/gradient_norm", "train/tokens_per_second", "valid/loss", "valid/perplexity"),
    *("valid/bits_per_byte", "valid/best_possible", "train/epoch_loss"),
]
CLASSIFICATION_COLUMNS = ["valid/accuracy", "valid/f1"]
STATE_FIELDS = ("tokens", "tokens_seen", "epoch_nats", "epoch_tokens", "latest")  # in checkpoints


def metric_columns(task: str) -> list[str]:
    return METRIC_COLUMNS + CLASSIFICATION_COLUMNS if task == "classification" else METRIC_COLUMNS


def csv_header(task: str) -> str:
    return ",".join(metric_columns(task)) + "\r\n"


class MetricsLogger(StepCallback):
    """Sum the loss over `trainer.log_every` steps, then write a row to metrics.csv and the loggers.

    The sum stays on the device until a row is due, so that no step waits for the GPU.
    """

    def __init__(self, setup: TrainingSetup, folder: Path):
        config, resumed = setup.config, setup.resumed
        self.path = folder / "metrics.csv"
        self.columns = metric_columns(config.data.task)
        self.csv_size = resumed.metrics_size if resumed else len(csv_header(config.data.task))
        self.elapsed_time = resumed.clock if resumed else ElapsedTime()
        self.plan = setup.plan
        self.log_every = config.trainer.log_every
        self.print_epoch_loss = config.trainer.max_epochs is not None
        self.best_possible = setup.data.best_possible_loss(config.data.valid_tokens)
        # Sums since the last row. Nats are a number, a tensor, or one number per process (resumed).
        self.nats: Any = 0.0
        self.tokens = 0
        self.paused_seconds = 0.0  # spent on validation, samples and checkpoints
        self.tokens_seen = 0
        self.epoch_nats = 0.0
        self.epoch_tokens = 0
        self.learning_rate = 0.0
        self.latest: dict[str, float] = {}  # each metric's last value

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.trainer = trainer
        if isinstance(self.nats, list):
            self.nats = self.nats[trainer.global_rank]
        if trainer.is_global_zero and self.path.exists():
            os.truncate(self.path, self.csv_size)  # drop rows written after the checkpoint
        self.start_time = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        nats = torch.as_tensor(self.nats, device=self.trainer.strategy.root_device)
        return {
            "nats": self.trainer.strategy.all_gather(nats).reshape(-1).tolist(),
            **{name: getattr(self, name) for name in STATE_FIELDS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("nats", *STATE_FIELDS):
            setattr(self, name, state[name])

    @contextlib.contextmanager
    def timer_paused(self) -> Iterator[None]:
        """Leave the time of the enclosed work out of tokens per second."""
        start = time.perf_counter()
        yield
        self.paused_seconds += time.perf_counter() - start

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.learning_rate = optimizer.param_groups[0]["lr"]  # before the schedule changes it

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.nats = self.nats + outputs["nats"]
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_step(self, trainer: Trainer, module: Any, batch: Any) -> None:
        self.tokens += batch["step_tokens"]
        self.tokens_seen += batch["step_tokens"]
        epoch = self.plan.completed_epoch(self.step)
        if self.step % self.log_every == 0 or self.step == self.plan.steps or epoch:
            self.log_training(trainer, module, epoch)
            module.raise_if_diverged()

    def log_training(self, trainer: Trainer, module: Any, epoch: int | None) -> None:
        """Log the steps since the last row and begin a new sum."""
        nats = torch.as_tensor(self.nats, device=module.device)
        loss = float(trainer.strategy.reduce(nats, reduce_op="sum")) / self.tokens
        now = time.perf_counter()
        seconds = now - self.start_time - self.paused_seconds
        metrics = {
            "train/loss": loss,
            "train/perplexity": perplexity(loss),
            "train/lr": self.learning_rate,
            "train/gradient_norm": float(module.gradient_norm),
            "train/tokens_per_second": self.tokens / max(seconds, 1e-9),
        }
        self.epoch_nats += loss * self.tokens
        self.epoch_tokens += self.tokens
        if epoch:
            metrics["train/epoch_loss"] = self.epoch_nats / self.epoch_tokens
            self.epoch_nats, self.epoch_tokens = 0.0, 0
            if self.print_epoch_loss and trainer.is_global_zero:
                tqdm.write(f"epoch {epoch}: average loss {metrics['train/epoch_loss']:.4f}")
        self.nats, self.tokens = 0.0, 0
        self.start_time, self.paused_seconds = now, 0.0
        self.log_metrics(trainer, metrics)

    def on_validation_start(self, *_: Any) -> None:
        self.validation_start_time = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.paused_seconds += time.perf_counter() - self.validation_start_time
        values = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in values if name.startswith("valid/")}
        if self.best_possible is not None:
            metrics["valid/best_possible"] = self.best_possible
        self.log_metrics(trainer, metrics)

    def flush_loggers(self) -> None:
        """Hand buffered events to the operating system, so that a killed process loses none."""
        for logger in self.trainer.loggers if self.step else ():
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "flush"):
                experiment.flush()

    def log_metrics(
        self, trainer: Trainer, metrics: dict[str, float], update_latest: bool = True
    ) -> None:
        """Write metrics to metrics.csv and loggers; update `latest`, which checkpoints store."""
        if update_latest:
            self.latest |= metrics
        if not trainer.is_global_zero:
            return
        epoch = self.plan.epochs(self.step)
        position = {"step": self.step, "tokens": self.tokens_seen, "epoch": epoch}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow(position | metrics)
            self.csv_size = file.tell()
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"train/tokens": self.tokens_seen}, step=self.step)
