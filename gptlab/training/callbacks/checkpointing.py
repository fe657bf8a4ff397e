"""Schedule checkpoints and collect the state that they store."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.data.tokenizer import decode
from gptlab.training.callbacks.graceful_shutdown import ShutdownRequested
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.checkpoint_io import link_or_copy, publish_checkpoint
from gptlab.training.module import TrainingDiverged
from gptlab.training.run_plan import TrainingSetup, resolved_settings, stored_config
from gptlab.training.run_summary import typed_command

REQUIRED_STATES = {"MetricsLogger", "SampleWriter", "CheckpointWriter"}  # callbacks, to resume


class CheckpointWriter(StepCallback):
    """Write best.ckpt (lowest validation loss), last.ckpt and optional epoch_N and step_N.ckpt.

    The checkpoint of step N is written after the samples and the validation of step N, so that a
    resumed run begins with step N + 1. If stopped during them, the resumed run repeats them.
    """

    def __init__(self, setup: TrainingSetup, folder: Path, metrics_logger: MetricsLogger):
        self.run_setup, self.plan, self.settings = setup, setup.plan, setup.config.trainer
        self.folder = folder / "checkpoints"
        self.metrics_logger = metrics_logger
        self.best_loss = math.inf
        self.validated_step = 0  # the last step whose validation is complete
        self.saved_step = -1
        self.saved_paths: list[Path] = []  # of saved_step
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "validated_step": self.validated_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.validated_step = state["best_loss"], state["validated_step"]

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add config, tokenizer and further state for resuming."""
        setup, metrics_logger = self.run_setup, self.metrics_logger
        metrics_logger.flush_loggers()
        checkpoint["config"] = stored_config(setup.config, self.plan)
        checkpoint["tokenizer"] = setup.corpus.tokenizer.state()
        checkpoint["gptlab"] = {
            "tokens": metrics_logger.tokens_seen,
            "steps": self.plan.steps,
            **metrics_logger.latest,
            "metrics_size": metrics_logger.csv_size,
            "clock": metrics_logger.elapsed_time.state(),
            "resolved": resolved_settings(self.plan, torch.get_num_threads()),
            "corpus": setup.corpus.folder.name,
            "command": setup.resumed.command if setup.resumed else typed_command(),
            "classes": setup.corpus.classes,
        }

    def on_load_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's micro-batch counters to whole steps of the current accumulation.

        Lightning counts a micro-batch as completed only after the callbacks ran, and would repeat
        it. Raises ValueError for missing state, which Lightning would ignore.
        """
        missing = REQUIRED_STATES - set(checkpoint["callbacks"])
        if missing or len(checkpoint["optimizer_states"]) != 1:
            raise ValueError(f"no state of {', '.join(missing) or 'the optimizer'}")
        completed = checkpoint["global_step"] * self.plan.shape.accumulate
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            counts |= dict.fromkeys(("ready", "started", "processed", "completed"), completed)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.is_validation_step() and self.validated_step < self.step:  # stopped during it
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False  # or it would skip batches that the stopped pass scored
            trainer.validating = True
            validation.run()
            trainer.training = True

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if not self.is_validation_step():  # otherwise on_validation_end saves
            self.save_due_checkpoints(trainer)

    def is_validation_step(self) -> bool:
        return bool(self.plan.eval_every and self.step and self.step % self.plan.eval_every == 0)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.validated_step = self.step
        loss = float(trainer.callback_metrics["valid/loss"])
        if loss < self.best_loss:
            self.best_loss = loss
            self.save(trainer, "best")
        self.save_due_checkpoints(trainer)

    def save_due_checkpoints(self, trainer: Trainer) -> None:
        epoch = self.plan.completed_epoch(self.step)
        if epoch and self.settings.checkpoint_every_epoch:
            self.save(trainer, f"epoch_{epoch}")
        interval, seconds = self.plan.checkpoint_every, self.settings.checkpoint_every_seconds
        steps_due = bool(interval) and self.step % interval == 0
        time_due = seconds is not None and time.monotonic() - self.saved_at >= seconds
        if trainer.world_size > 1:
            time_due = trainer.strategy.reduce_boolean_decision(time_due, all=False)
        if steps_due or time_due:
            self.save(trainer, "last")
        if steps_due and self.settings.keep_step_checkpoints:
            self.save(trainer, f"step_{self.step}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, "last")

    def on_exception(self, trainer: Trainer, module: LightningModule, error: BaseException) -> None:
        if isinstance(error, ShutdownRequested):
            self.step = trainer.global_step  # on_step has not run for this step
            self.save(trainer, "last")
        if isinstance(error, TrainingDiverged) and trainer.is_global_zero:
            path = save_diverged_batches(self.run_setup.data, error.step, self.folder.parent)
            error.args = (f"{error}; earlier checkpoints are kept, its batches are in {path}",)

    def save(self, trainer: Trainer, name: str) -> None:
        """Write NAME.ckpt; a second name for the same step is a link to the first file."""
        path = self.folder / f"{name}.ckpt"
        module: Any = trainer.lightning_module
        module.raise_if_diverged()
        with self.metrics_logger.timer_paused():
            if self.step != self.saved_step:
                trainer.save_checkpoint(path, weights_only=False)
                self.saved_step, self.saved_paths = self.step, []
                self.saved_at = time.monotonic()
            elif trainer.is_global_zero and path not in self.saved_paths:
                publish_checkpoint(link_or_copy(self.saved_paths[0], path), path)
            self.saved_paths.append(path)


def save_diverged_batches(data: TextDataModule, step: int, folder: Path) -> Path:
    """Save this process's micro-batches of a step, as tensors and as text."""
    shape = data.shape
    batches = TrainingBatches(data.sequences, shape)
    numbers = range((step - 1) * shape.accumulate, step * shape.accumulate)
    step_batches = [batches[number] for number in numbers]
    path = folder / f"not_finite_step_{step}.pt"
    tensors = {name: torch.stack([b[name] for b in step_batches]) for name in ("input", "target")}
    torch.save(tensors, path)
    texts = [decode(data.corpus.tokenizer, row) for row in tensors["input"].flatten(0, 1).tolist()]
    path.with_suffix(".txt").write_text("\n\n".join(texts), encoding="utf-8")
    return path
