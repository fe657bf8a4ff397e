"""Measure time per step and peak memory of contenders, each in its own process."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from gptlab.bench import reference_loops
from gptlab.bench.reference_loops import EXTERNAL_MODELS, nanogpt_loop, open_config_corpus
from gptlab.bench.roofline import step_cost
from gptlab.bench.timing import Timing, compare_timings
from gptlab.config.cli import compose_config
from gptlab.data.dataloader import TextDataModule
from gptlab.model.gpt import GPT
from gptlab.utils.system import peak_memory

STEPS, WARM_UP_STEPS = 3, 2
NANOGPT = "nanoGPT-style loop"


def measure_contender(name: str, arguments: list[str]) -> tuple[float, float]:
    """Return seconds per step and peak gigabytes of a contender, in this process.

    Names: `gptlab, OVERRIDE`, or the nanoGPT-style loop or a library, `, compiled` or not.
    """
    kind, _, option = name.partition(", ")
    if kind == "gptlab":
        seconds = reference_loops.time_gptlab_step([*arguments, option], STEPS, WARM_UP_STEPS)
        return seconds, reference_loops.StepTimer.peak_memory / 1e9
    config = compose_config("train", arguments)
    make_net = EXTERNAL_MODELS.get(kind, GPT)
    loop = nanogpt_loop(config, open_config_corpus(config), make_net)
    if option == "compiled":
        loop.net.compile()
    loop.run(WARM_UP_STEPS)
    return loop.run(STEPS), peak_memory() / 1e9


def time_in_processes(arguments: list[str], rounds: int) -> None:
    """Print for each contender the time per step, its ratio to the first, and peak memory."""
    installed = filter(importlib.util.find_spec, EXTERNAL_MODELS)
    names = [f"{kind}{end}" for kind in (NANOGPT, *installed) for end in ("", ", compiled")]
    names += ["gptlab, trainer.compile=false", "gptlab, trainer.compile=step"]
    gigabytes: dict[str, float] = {}

    def contender(name: str) -> Callable[[], float]:
        call = f"measure_contender({name!r}, {arguments})"
        code = f"from gptlab.bench.isolated import measure_contender; print(*{call})"

        def run() -> float:
            process = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
            )
            if process.returncode:
                raise SystemExit(f"{name}: {process.stderr.strip().splitlines()[-1]}")
            seconds, gigabytes[name] = map(float, process.stdout.split()[-2:])
            return seconds

        return run

    cost = step_cost(arguments)

    def memory_and_rate(timing: Timing) -> str:
        return f"{gigabytes[timing.name]:.2f} GB  {cost.describe(timing.median)}"

    contenders = {name: contender(name) for name in names}
    compare_timings(contenders, rounds, details=memory_and_rate, warm_up=False)


def time_plain_script(arguments: list[str]) -> float:
    """Return the seconds of a nanoGPT-style script that validates and saves as often as gptlab."""
    config = compose_config("train", arguments)
    corpus = open_config_corpus(config)
    start = time.perf_counter()
    loop = nanogpt_loop(config, corpus)
    plan = loop.plan
    data = TextDataModule(corpus, config.data, plan.model.context_length, plan.shape, config.seed)
    batches = data.validation_batches("valid", config.data.valid_tokens)
    for _ in range(plan.steps // plan.eval_every):
        loop.run(plan.eval_every)
        with torch.no_grad():
            for number in range(len(batches)):
                batch = batches[number]
                loop.net(batch["input"], batch["target"])
        torch.save([loop.net.state_dict(), loop.optimizer.state_dict()], "plain_script.pt")
    return time.perf_counter() - start
