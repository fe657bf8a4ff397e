"""Measure the limits of this machine and how close a training step comes to them."""

from dataclasses import dataclass
from functools import cache

import torch

from gptlab.bench.reference_loops import open_config_corpus
from gptlab.bench.timing import time_in_turns, timed
from gptlab.config.cli import compose_config
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.layers import LearnedPositions
from gptlab.training.run_plan import make_run_plan


@cache
def matmul_rate(rounds: int = 5, size: int = 2048) -> float:
    """Measure float32 operations per second in matrix products."""
    a, b = torch.randn(2, size, size)
    (timing,) = time_in_turns({"": timed(lambda: a @ b)}, rounds)
    return 2 * size**3 / timing.median


@cache
def memory_bandwidth(rounds: int = 5, count: int = 1 << 28) -> float:
    """Measure the bytes per second that all threads read; `count` floats must exceed the caches."""
    numbers = torch.ones(count)
    (timing,) = time_in_turns({"": timed(numbers.sum)}, rounds)
    return numbers.nbytes / timing.median


@dataclass
class StepCost:
    """Tokens and matrix-product operations of a training step."""

    tokens: int
    operations: float

    def describe(self, seconds: float) -> str:
        share = self.operations / seconds / matmul_rate()
        return f"{self.tokens / seconds:,.0f} tokens/s, {share:.0%} of the limit"


def step_cost(arguments: list[str]) -> StepCost:
    """Count the cost of a step of `python train.py ARGUMENTS`: 6 operations per weight and token.

    Embeddings are looked up, not multiplied, and do not count.
    """
    config = compose_config("train", arguments)
    plan = make_run_plan(config, open_config_corpus(config))
    with torch.device("meta"):
        net = GPT(plan.model)
    weights = count_parameters(net)
    if isinstance(net.positions, LearnedPositions):
        weights -= net.positions.table.weight.numel()
    if not plan.model.tied_head:
        weights -= net.embedding.weight.numel()
    tokens = plan.shape.sequences_per_step * plan.row_tokens
    return StepCost(tokens, 6.0 * weights * tokens)
