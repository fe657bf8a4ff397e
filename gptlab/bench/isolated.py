"""Contenders that are measured each in a process of its own, for time a step and peak memory.

Among them, where they are installed, models of other libraries in the same plain loop.
"""

import importlib.util
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.bench import baselines
from gptlab.bench.roofline import work_of
from gptlab.bench.timing import time_in_pairs
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.dataloader import TextDataModule

STEPS = 3


class ExternalModel(nn.Module):
    """Another library's net behind the face of ours: tokens and targets in, nats out."""

    def __init__(self, net: nn.Module, logits: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.net, self.logits = net, logits

    def forward(self, source_BxT: Tensor, target_BxT: Tensor) -> Tensor:
        logits_BxTxV = self.logits(self.net, source_BxT)
        return F.cross_entropy(logits_BxTxV.flatten(0, 1), target_BxT.flatten(), reduction="sum")


def transformers(config: ModelConfig) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
        n_layer=config.n_layer, n_head=config.n_head, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    return ExternalModel(GPT2LMHeadModel(settings), lambda net, source: net(source).logits)


def litgpt(config: ModelConfig) -> nn.Module:
    from litgpt.config import Config
    from litgpt.model import GPT

    settings = Config(
        block_size=config.context_length, padded_vocab_size=config.vocab_size,
        vocab_size=config.vocab_size, n_layer=config.n_layer, n_head=config.n_head,
        n_embd=config.d_model,
    )  # fmt: skip
    return ExternalModel(GPT(settings), lambda net, source: net(source))


def measure(name: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds a step and gigabytes at the peak, in this process."""
    kind, _, mode = name.partition(", ")
    if kind == "gptlab":
        seconds = baselines.through_gptlab([*arguments, mode], STEPS, warm=2)
        return seconds, baselines.StepTimer.peak / 1e6
    made: list[baselines.BareLoop] = []

    def look(config: TrainConfig) -> None:
        corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
        bare = baselines.as_nanogpt(config, corpus)
        if kind != "plain loop":
            bare.take({"transformers": transformers, "litgpt": litgpt}[kind](bare.plan.model))
        if mode == "compiled":
            bare.net.compile()
        made.append(bare)

    baselines.configured(arguments, look)
    made[0].run(2)
    seconds = made[0].run(STEPS)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def time_in_processes(arguments: list[str], rounds: int) -> None:
    """Prints a line for each contender: time a step, ratio to the first one's, peak memory."""
    names = ["plain loop", "plain loop, compiled"]
    for library in ("transformers", "litgpt"):
        if importlib.util.find_spec(library):
            names += [library, f"{library}, compiled"]
    names += [f"gptlab, trainer.compile={mode}" for mode in ("false", "step")]
    peaks: dict[str, float] = {}

    def contender(name: str) -> Callable[[], float]:
        def run() -> float:
            code = (
                f"from gptlab.bench.isolated import measure; print(*measure({name!r}, {arguments}))"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            seconds, peaks[name] = map(float, done.stdout.split()[-2:])
            return seconds

        return run

    work = work_of(arguments)
    for timing in time_in_pairs({name: contender(name) for name in names}, rounds, warm=False):
        print(timing.line(), f" {peaks[timing.name]:.2f} GB  {work.line(timing.median)}")


def whole_script(arguments: list[str]) -> float:
    """Seconds of a plain script's run: steps, validation and checkpoints as often as gptlab's."""
    seconds = 0.0

    def run(config: TrainConfig) -> None:
        nonlocal seconds
        corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
        began = time.perf_counter()
        bare = baselines.as_nanogpt(config, corpus)
        context, shape = bare.plan.model.context_length, bare.plan.shape
        data = TextDataModule(corpus, config.data, context, shape, config.seed)
        batches = data.validation("valid", config.data.valid_tokens)
        for _ in range(bare.plan.steps // bare.plan.eval_every):
            bare.run(bare.plan.eval_every)
            with torch.no_grad():
                for number in range(len(batches)):
                    batch = batches[number]
                    bare.net(batch["input"], batch["target"])
            torch.save([bare.net.state_dict(), bare.optimizer.state_dict()], "plain.pt")
        seconds = time.perf_counter() - began

    baselines.configured(arguments, run)
    return seconds
