"""Which checkpoints a run keeps, and when it writes them."""

import contextlib
import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.config.schema import TrainerConfig
from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.data.tokenizer import decode
from gptlab.model import checkpoint as reading
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import ShutdownRequested, StepCallback, epoch_ended
from gptlab.training.module import Diverged
from gptlab.training.run_plan import RunPlan
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import link_or_copy, publish_checkpoint
from gptlab.utils.errors import UserError


class PublishRunDir(Callback):
    """A new run's folder appears with the checkpoint of step 0 in it: there is always one."""

    def __init__(self, folder: Path, loggers: list[Logger]):
        self.folder = folder
        self.loggers = loggers

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        trainer.save_checkpoint(
            run_dir.staging_dir(self.folder) / "checkpoints" / "last.ckpt", weights_only=False
        )
        if trainer.is_global_zero:
            run_dir.publish_run_dir(self.folder)
        trainer.strategy.barrier("run folder")
        trainer.loggers = self.loggers


class CheckpointWriter(StepCallback):
    """best.ckpt by validation loss, last.ckpt, and, where asked, epoch_N.ckpt and step_N.ckpt.

    A checkpoint of step N is written when all that belongs to step N is done, its samples and its
    validation included: a run that goes on from it begins with step N + 1. Only a run that is
    stopped in the middle of these leaves one that has them still to do.
    """

    def __init__(
        self,
        folder: Path,
        plan: RunPlan,
        meter: MetricsLogger,
        content: dict[str, Any],
        facts: dict[str, Any],
        trainer: TrainerConfig,
    ):
        self.folder = folder / "checkpoints"
        self.plan = plan
        self.meter = meter
        self.content = content  # config and tokenizer, as plain values
        self.facts = facts  # what the run needs to go on, beside its state
        self.trainer_config = trainer
        self.best = math.inf
        self.validated = 0  # the last step whose validation is done
        self.saved_step = -1
        self.saved: list[Path] = []  # the names that this step has
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "validated": self.validated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.validated = state["best"], state["validated"]

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.meter.flush()
        facts = {"tokens": self.meter.tokens_seen, "steps": self.plan.steps, **self.meter.latest}
        facts |= {"metrics_size": self.meter.size, "clock": self.meter.clock.read(), **self.facts}
        checkpoint.update(self.content, gptlab=facts)

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets the micro-batches that are done: whole steps, each of as many as it has now.

        Lightning counts one as completed only after the callbacks, and would begin with it again.
        Raises ValueError for what Lightning would pass over in silence.
        """
        lacks = {"Meter", "Samples", "Checkpoints"} - set(checkpoint["callbacks"])
        if lacks or len(checkpoint["optimizer_states"]) != 1:
            raise ValueError(f"no state of {', '.join(lacks) or 'the optimizer'}")
        done = checkpoint["global_step"] * self.plan.shape.accumulate
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            counts |= dict.fromkeys(("ready", "started", "processed", "completed"), done)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.validation_due() and self.validated < self.step:  # stopped in the middle of it
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False  # or it would leave out what an earlier one has scored
            trainer.validating = True
            validation.run()
            trainer.training = True

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if not self.validation_due():
            self.save_due(trainer)

    def validation_due(self) -> bool:
        return bool(self.plan.eval_every and self.step and self.step % self.plan.eval_every == 0)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.validated = self.step
        loss = float(trainer.callback_metrics["valid/loss"])
        better = loss < self.best
        if better:
            self.best = loss
            self.save(trainer, "best")
        self.save_due(trainer)

    def save_due(self, trainer: Trainer) -> None:
        """The checkpoints that this step asks for, or the time since the last one."""
        epoch = epoch_ended(self.plan, self.step)
        if epoch and self.trainer_config.checkpoint_every_epoch:
            self.save(trainer, f"epoch_{epoch}")
        every, seconds = self.plan.checkpoint_every, self.trainer_config.checkpoint_seconds
        counted = bool(every) and self.step % every == 0
        late = seconds is not None and time.monotonic() - self.saved_at >= seconds
        if trainer.world_size > 1:
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if counted or late:
            self.save(trainer, "last")
        if counted and self.trainer_config.keep_steps:
            self.save(trainer, f"step_{self.step}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, "last")

    def on_exception(self, trainer: Trainer, module: LightningModule, error: BaseException) -> None:
        if isinstance(error, ShutdownRequested):
            self.step = trainer.global_step  # which `on_step` has not come to yet
            self.save(trainer, "last")
        if isinstance(error, Diverged) and trainer.is_global_zero:
            path = save_diverged_batches(trainer.datamodule, error.step, self.folder.parent)
            error.args = (f"{error}; the checkpoints before it are kept, its batches in {path}",)

    def save(self, trainer: Trainer, name: str) -> None:
        """Written once a step; under a further name it is the same file, by a link."""
        path = self.folder / f"{name}.ckpt"
        trainer.lightning_module.check_finite()
        with self.meter.paused():
            if self.step != self.saved_step:
                trainer.save_checkpoint(path, weights_only=False)
                self.saved_step, self.saved = self.step, []
                self.saved_at = time.monotonic()
            elif trainer.is_global_zero and path not in self.saved:
                publish_checkpoint(link_or_copy(self.saved[0], path), path)
            self.saved.append(path)


def save_diverged_batches(data: TextDataModule, step: int, folder: Path) -> Path:
    """What a step was trained on, of this process: its micro-batches as tensors, and as text."""
    shape = data.shape
    batches = TrainingBatches(data.windows, shape)
    numbers = range((step - 1) * shape.accumulate, step * shape.accumulate)
    read = [batches[number] for number in numbers]
    path = folder / f"not_finite_step_{step}.pt"
    kept = {name: torch.stack([batch[name] for batch in read]) for name in ("input", "target")}
    torch.save(kept, path)
    texts = [decode(data.corpus.tokenizer, row) for row in kept["input"].flatten(0, 1).tolist()]
    path.with_suffix(".txt").write_text("\n\n".join(texts), encoding="utf-8")
    return path


class AtomicCheckpointIO(TorchCheckpointIO):
    """A temporary file in the same folder, flushed, verified, then renamed over the old one.

    Of `last.ckpt` the one before is kept, as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            reading.verify_checkpoint(temporary)
            publish_checkpoint(temporary, path)
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with the cause only in its text
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if isinstance(error, RuntimeError) and "write" not in str(error):
                raise
            raise UserError(
                f"{path}: cannot be written, the disk is full; the checkpoint before it is kept; "
                "make room, or choose another disk with run_root="
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing in the file is executed."""
        return dict(reading.read_checkpoint(Path(path)))
