"""Loss and speed, gathered step by step, for metrics.csv, the loggers and the terminal."""

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

from gptlab.config.schema import TrainConfig
from gptlab.model.loss import perplexity
from gptlab.training.callbacks.step_callback import StepCallback, epoch_ended
from gptlab.training.resume import ResumedRun
from gptlab.training.run_plan import RunPlan
from gptlab.utils.elapsed_time import ElapsedTime

METRIC_COLUMNS = [
    *("step", "tokens", "epoch", "train/loss", "train/perplexity", "train/lr"),
    *("train/gradient_norm", "train/tokens_per_second", "valid/loss", "valid/perplexity"),
    *("valid/bits_per_byte", "valid/best_possible", "train/epoch_loss"),
]


STATE_FIELDS = ("tokens", "tokens_seen", "epoch_nats", "epoch_tokens", "latest")  # in checkpoints
CLASSIFICATION_COLUMNS = ["valid/accuracy", "valid/f1"]


def metric_columns(task: str) -> list[str]:
    """Of metrics.csv."""
    return METRIC_COLUMNS + CLASSIFICATION_COLUMNS if task == "classification" else METRIC_COLUMNS


def csv_header(task: str) -> str:
    return ",".join(metric_columns(task)) + "\r\n"


class MetricsLogger(StepCallback):
    """Gathers loss and speed, and writes them to metrics.csv and to the loggers.

    Losses stay on the device between two lines of the log: no step waits for them.
    """

    def __init__(
        self,
        folder: Path,
        plan: RunPlan,
        config: TrainConfig,
        best_possible: float | None,
        resumed: ResumedRun | None,
    ):
        self.path = folder / "metrics.csv"
        self.columns = metric_columns(config.data.task)
        # Bytes that are known.
        self.size = resumed.metrics_size if resumed else len(csv_header(config.data.task))
        self.clock = resumed.clock if resumed else ElapsedTime()
        self.plan = plan
        self.log_every = config.trainer.log_every
        self.say_epochs = config.trainer.max_epochs is not None
        self.best_possible = best_possible
        self.nats: Any = 0.0  # a number, a tensor, or just restored a number for each process
        self.tokens = 0  # targets since the last line
        self.tokens_seen = 0
        self.paused_seconds = 0.0  # in validation, samples and checkpoints since the last line
        self.epoch_nats = 0.0
        self.epoch_tokens = 0
        self.rate = 0.0
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.trainer = trainer
        if isinstance(self.nats, list):  # restored: each process goes on with its own sum
            self.nats = self.nats[trainer.global_rank]
        if (
            trainer.is_global_zero and self.path.exists()
        ):  # lines after the checkpoint that the run goes on from
            os.truncate(self.path, self.size)
        self.began = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What the next line of the log needs of the steps before."""
        nats = torch.as_tensor(self.nats, device=self.trainer.strategy.root_device)
        return {
            "nats": self.trainer.strategy.all_gather(nats).reshape(-1).tolist(),
            **{name: getattr(self, name) for name in STATE_FIELDS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("nats", *STATE_FIELDS):
            setattr(self, name, state[name])

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
        module.check_finite()

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

    def flush(self) -> None:
        """Hands everything to the operating system: a killed process loses none of it."""
        for logger in self.trainer.loggers if self.step else ():
            if hasattr(logger.experiment, "flush"):
                logger.experiment.flush()

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
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow(place | metrics)
            self.size = file.tell()
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"train/tokens": place["tokens"]}, step=self.step)
