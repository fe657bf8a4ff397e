"""What no program can exceed on this machine, and how near to it one comes."""

from dataclasses import dataclass
from functools import cache

import torch

from gptlab.bench import baselines
from gptlab.bench.timing import time_in_pairs, timed
from gptlab.config.schema import TrainConfig
from gptlab.data.build import open_corpus
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.run_plan import make_run_plan


@cache
def matrix_products(rounds: int = 5) -> float:
    """Operations a second, of matrix products in float32."""
    a, b = torch.randn(2, 2048, 2048)
    (timing,) = time_in_pairs({"": timed(lambda: a @ b)}, rounds)
    return 2 * 2048**3 / timing.median


@cache
def reading(rounds: int = 5) -> float:
    """Bytes a second that all threads together read from memory."""
    numbers = torch.ones(1 << 28)  # 1 GiB: in no cache
    (timing,) = time_in_pairs({"": timed(numbers.sum)}, rounds)
    return numbers.nbytes / timing.median


@dataclass
class Work:
    """Of a training step: tokens, and operations in matrix products, 6 a weight and token."""

    tokens: int
    operations: float

    def line(self, seconds: float) -> str:
        share = self.operations / seconds / matrix_products()
        return f"{self.tokens / seconds:,.0f} tokens/s, {share:.0%} of the limit"


def work_of(arguments: list[str]) -> Work:
    """Of the run that these arguments of train.py mean."""
    found: list[Work] = []

    def look(config: TrainConfig) -> None:
        corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
        plan = make_run_plan(config, corpus)
        with torch.device("meta"):
            net = GPT(plan.model)
        looked_up = net.positions.table.weight.numel() if plan.model.position == "learned" else 0
        if not plan.model.tied_head:
            looked_up += net.embedding.weight.numel()
        tokens = plan.shape.rows_per_step * plan.row_tokens
        found.append(Work(tokens, 6.0 * (count_parameters(net) - looked_up) * tokens))

    baselines.configured(arguments, look)
    return found[0]
