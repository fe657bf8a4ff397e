"""Train the same model in gptlab, in bare loops, and with other libraries, to compare speed."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn

from gptlab.config.arguments import hydra_arguments
from gptlab.config.cli import composed_config
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import TextDataModule, TrainingBatches
from gptlab.model.gpt import GPT
from gptlab.training.optim import make_optimizer
from gptlab.training.run_plan import RunPlan, make_run_plan
from gptlab.utils.system import peak_memory

GetBatch = Callable[[int], tuple[Tensor, Tensor]]  # number: (source, target)


def open_config_corpus(config: TrainConfig) -> Corpus:
    return open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)


class StepTimer(Callback):
    """Record, on the class, when the first step after the warmup starts and the last one ends."""

    start = end = 0.0
    warm_up_steps = 0
    peak_memory = 0  # bytes, before the last checkpoint is written

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == StepTimer.warm_up_steps:
            StepTimer.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            StepTimer.end = time.perf_counter()
            StepTimer.peak_memory = peak_memory()


def time_gptlab_step(arguments: list[str], steps: int, warm_up_steps: int = 10) -> float:
    """Return the seconds per step of a whole run, callbacks and checkpoints included."""
    from gptlab.training.train import train

    StepTimer.warm_up_steps = warm_up_steps
    max_steps = f"trainer.max_steps={warm_up_steps + steps}"
    timer = "+callbacks.step_timer._target_=gptlab.bench.reference_loops.StepTimer"
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        composed_config("train", hydra_arguments([*arguments, max_steps, timer])) as config,
    ):
        train(config)
    return (StepTimer.end - StepTimer.start) / steps


class BareLoop:
    """Forward, backward, clipping and optimizer in a loop, on one device, without accumulation.

    `net` is a GPT or an ExternalModel.
    """

    def __init__(self, net: Any, plan: RunPlan, get_batch: GetBatch, fused: bool):
        assert plan.shape.accumulate == 1
        self.net, self.plan, self.get_batch = net, plan, get_batch
        self.optimizer = make_optimizer(net, plan.optim, fused)
        self.steps_done = 0

    def run(self, steps: int) -> float:
        """Train and return the seconds per step."""
        start = time.perf_counter()
        for _ in range(steps):
            source, target = self.get_batch(self.steps_done)
            loss = self.net(source, target) / target.numel()
            loss.backward()
            if self.plan.optim.grad_clip:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.plan.optim.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.steps_done += 1
        return (time.perf_counter() - start) / steps


def gptlab_loop(config: TrainConfig, corpus: Corpus) -> BareLoop:
    """Build a hand-written loop around gptlab's net, batches and optimizer."""
    plan = make_run_plan(config, corpus)
    torch.manual_seed(config.seed)
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    batches = TrainingBatches(data.sequences, plan.shape)

    def get_batch(number: int) -> tuple[Tensor, Tensor]:
        batch = batches[number]
        return batch["input"], batch["target"]

    return BareLoop(GPT(plan.model), plan, get_batch, fused=True)


def nanogpt_loop(
    config: TrainConfig, corpus: Corpus, make_net: Callable[[ModelConfig], nn.Module] = GPT
) -> BareLoop:
    """Build nanoGPT's loop for a CPU: rows cut one by one, AdamW tensor by tensor."""
    plan = make_run_plan(config, corpus)
    torch.manual_seed(config.seed)
    net = make_net(plan.model)
    if isinstance(net, GPT):
        net.max_logits = sys.maxsize  # no chunked loss
    path, length = corpus.path("train"), plan.row_tokens

    def get_batch(_: int) -> tuple[Tensor, Tensor]:
        tokens = np.memmap(path, dtype=corpus.dtype, mode="r")  # nanoGPT reopens it each time
        starts = torch.randint(len(tokens) - length, (plan.shape.batch_size,)).tolist()

        def rows(offset: int) -> Tensor:
            spans = [tokens[start + offset : start + offset + length] for start in starts]
            return torch.stack([torch.from_numpy(span.astype(np.int64)) for span in spans])

        return rows(0), rows(1)

    return BareLoop(net, plan, get_batch, fused=False)


class ExternalModel(nn.Module):
    """Give another library's net the interface of GPT: tokens and targets in, nats out."""

    def __init__(self, net: nn.Module, logits: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.net: Any = net
        self.logits = logits

    def forward(self, source_BxT: Tensor, target_BxT: Tensor) -> Tensor:
        logits_BxTxV = self.logits(self.net, source_BxT)
        return F.cross_entropy(logits_BxTxV.flatten(0, 1), target_BxT.flatten(), reduction="sum")


def transformers_model(config: ModelConfig) -> ExternalModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    assert config.vocab_size
    settings = GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
        n_layer=config.n_layer, n_head=config.n_head, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    return ExternalModel(GPT2LMHeadModel(settings), lambda net, source: net(source).logits)


def litgpt_model(config: ModelConfig) -> ExternalModel:
    from litgpt.config import Config
    from litgpt.model import GPT as LitGPT

    settings = Config(
        block_size=config.context_length, padded_vocab_size=config.vocab_size,
        vocab_size=config.vocab_size, n_layer=config.n_layer, n_head=config.n_head,
        n_embd=config.d_model,
    )  # fmt: skip
    return ExternalModel(LitGPT(settings), lambda net, source: net(source))


EXTERNAL_MODELS: dict[str, Callable[[ModelConfig], ExternalModel]] = {
    "transformers": transformers_model,
    "litgpt": litgpt_model,
}
