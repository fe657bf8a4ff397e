"""The same training, step by step: through gptlab, and by loops with nothing around them."""

import contextlib
import io
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Callback
from torch import Tensor, nn

from gptlab.config.cli import command
from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.model.gpt import GPT
from gptlab.training.optim import make_optimizer
from gptlab.training.run_plan import RunPlan, make_run_plan


class StepTimer(Callback):
    """Notes when the steps after the warm ones begin and when the latest one has ended."""

    began = ended = 0.0
    warm = 0
    peak = 0  # kilobytes, before the last checkpoint is written

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == StepTimer.warm:
            StepTimer.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            StepTimer.ended = time.perf_counter()
            StepTimer.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def configured(arguments: list[str], action: Callable[[TrainConfig], None]) -> None:
    """Calls the action with the configuration that `python train.py …` would have."""
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, ["train.py", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command("train")(action)()
    finally:
        sys.argv = before


def through_gptlab(arguments: list[str], steps: int, warm: int = 10) -> float:
    """Seconds a step of a whole run, callbacks, checkpoints and all, after the warm steps."""
    from gptlab.training.train import train

    StepTimer.warm = warm
    clock = "+callbacks.bench_clock._target_=gptlab.bench.baselines.StepTimer"
    configured([*arguments, f"trainer.max_steps={warm + steps}", clock], train)
    return (StepTimer.ended - StepTimer.began) / steps


def bare(config: TrainConfig, corpus: Corpus) -> "BareLoop":
    """The loop that one would write by hand around the same net, batches and optimizer."""
    plan = make_run_plan(config, corpus)
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    batches = TrainingBatches(data.windows, plan.shape)

    def get(number: int) -> tuple[Tensor, Tensor]:
        batch = batches[number]
        return batch["input"], batch["target"]

    return BareLoop(net, plan, make_optimizer(net, plan.optim, fused=True), get)


def as_nanogpt(config: TrainConfig, corpus: Corpus) -> "BareLoop":
    """What nanoGPT's script does on a CPU: rows cut one by one, AdamW tensor by tensor."""
    plan = make_run_plan(config, corpus)
    torch.manual_seed(config.seed)
    net = GPT(plan.model)
    net.max_logits = sys.maxsize
    path, size = corpus.path("train"), plan.row_tokens

    def get(_: int) -> tuple[Tensor, Tensor]:
        tokens = np.memmap(path, dtype=corpus.dtype, mode="r")  # anew each time, as it does
        starts = torch.randint(len(tokens) - size, (plan.shape.batch_size,))
        rows = [
            torch.stack(
                [torch.from_numpy(tokens[i + by : i + by + size].astype(np.int64)) for i in starts]
            )
            for by in (0, 1)
        ]
        return rows[0], rows[1]

    return BareLoop(net, plan, make_optimizer(net, plan.optim, fused=False), get)


class BareLoop:
    """A loop of forward, backward, clipping and optimizer, on one device, without accumulation."""

    def __init__(
        self,
        net: nn.Module,
        plan: RunPlan,
        optimizer: torch.optim.Optimizer,
        get: Callable[[int], tuple[Tensor, Tensor]],
    ):
        assert plan.shape.accumulate == 1
        self.net, self.plan, self.optimizer, self.get = net, plan, optimizer, get
        self.done = 0

    def take(self, net: nn.Module) -> None:
        """Another net, with an optimizer of its own."""
        self.net, self.optimizer = net, make_optimizer(net, self.plan.optim, fused=False)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        began = time.perf_counter()
        for _ in range(steps):
            source, target = self.get(self.done)
            loss = self.net(source, target) / target.numel()
            loss.backward()
            if self.plan.optim.grad_clip:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.plan.optim.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.done += 1
        return (time.perf_counter() - began) / steps
