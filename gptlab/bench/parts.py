"""The parts of the benchmark: each prints a comparison, measured in the current folder."""

import itertools
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from gptlab.bench import reference_loops, roofline
from gptlab.bench.generation import generation
from gptlab.bench.isolated import NANOGPT, time_in_processes
from gptlab.bench.reference_loops import time_gptlab_step
from gptlab.bench.timing import compare_timings, timed
from gptlab.config.cli import compose_config
from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.data.toy.stories import story_grammar
from gptlab.utils.system import cpu_name

TINY_CHAR = [
    *("experiment=tiny_char", "data=toy_stories", "tokenizer=char", "data.batching=random"),
    "trainer.accelerator=cpu",  # where the bare loops run
]
ALMOST_NO_MODEL = [*TINY_CHAR, "model.n_layer=1", "model.d_model=4", "model.context_length=4"]
GPT2_TOKENS = [
    *("data=toy_stories", "tokenizer=gpt2", "data.batching=random", "optim=adamw_cosine"),
    *("model.dropout=0", "model.attention_dropout=0", "trainer.accelerator=cpu"),
]
NO_EXTRAS = [
    *("eval_after=[perplexity]", "data.final_tokens=2000", "trainer.sample_every=0"),
    *("trainer.eval_every=0", "logger=none", "trainer.checkpoint_every=0"),
]
BARE = "bare loop of gptlab's parts"
STEPS = 200


def machine(rounds: int) -> None:
    """The speed limits of this machine."""
    print(f"  {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"  matrix products, float32: {roofline.matmul_rate(rounds) / 1e9:.0f} GFLOP/s")
    print(f"  reading memory: {roofline.memory_bandwidth(rounds) / 1e9:.1f} GB/s")


def step(rounds: int) -> None:
    """A step of tiny_char: nanoGPT-style loop, bare loop, gptlab."""
    loops = make_loops(TINY_CHAR)
    contenders = {name: partial(loop.run, STEPS) for name, loop in loops.items()}
    for mode in ("trainer.compile=false", "trainer.compile=step"):
        arguments = [*TINY_CHAR, *NO_EXTRAS, mode]
        contenders[f"gptlab, {mode}"] = partial(time_gptlab_step, arguments, STEPS)
    cost = roofline.step_cost(TINY_CHAR)
    compare_timings(contenders, rounds, details=lambda timing: cost.describe(timing.median))


def medium(rounds: int) -> None:
    """16M parameters, vocabulary 50,304, 4 × 512 tokens; each contender in its own process."""
    arguments = ["model=gpt_16m", "data.batch_size=4", "data.row_length=513", *GPT2_TOKENS]
    time_in_processes([*arguments, *NO_EXTRAS], rounds)


def large(rounds: int) -> None:
    """GPT-2's width and vocabulary, 4 layers, 8 × 256 tokens; each contender in its own process."""
    arguments = ["model=small", "model.n_layer=4", "model.context_length=256", *GPT2_TOKENS]
    time_in_processes([*arguments, "data.batch_size=8", *NO_EXTRAS], rounds)


def overhead(rounds: int) -> None:
    """The framework's cost per step, with a model that has almost nothing to compute."""
    loop = make_loops(ALMOST_NO_MODEL)[BARE]
    train = partial(time_gptlab_step, [*ALMOST_NO_MODEL, *NO_EXTRAS], 5 * STEPS)
    bare, gptlab = compare_timings({BARE: partial(loop.run, 5 * STEPS), "gptlab": train}, rounds)
    costs = [1e3 * (b - a) for a, b in zip(bare.seconds, gptlab.seconds, strict=True)]
    spread = f"{min(costs):.2f} to {max(costs):.2f}"
    print(f"  a step costs {statistics.median(costs):.2f} ms more ({spread})")


def make_loops(arguments: list[str]) -> dict[str, reference_loops.BareLoop]:
    config = compose_config("train", arguments)
    corpus = reference_loops.open_config_corpus(config)
    nanogpt = reference_loops.nanogpt_loop(config, corpus)
    return {NANOGPT: nanogpt, BARE: reference_loops.gptlab_loop(config, corpus)}


def dashboards(rounds: int) -> None:
    """tiny_char with all dashboards, samples and checkpoints, and with none; both compiled."""
    both = ["trainer.compile=step", "data.final_tokens=2000", "trainer.eval_every=1000"]
    often = ["trainer.sample_every=1000", "trainer.checkpoint_every=1000"]
    cases = {"all off": [*NO_EXTRAS, *both], "all on": [*both, *often]}
    contenders = {
        name: partial(time_gptlab_step, [*TINY_CHAR, *arguments], 10 * STEPS)
        for name, arguments in cases.items()
    }
    compare_timings(contenders, rounds)


def full_run(rounds: int) -> None:
    """All 10,000 steps of tiny_char from the command to the end, validation and checkpoints
    included: a nanoGPT-style script, and gptlab with and without a compiled graph in its cache."""
    arguments = [
        *TINY_CHAR,
        *("trainer.max_steps=10000", "data.final_tokens=2000", "eval_after=[perplexity]"),
        *("trainer.eval_every=1000", "trainer.checkpoint_every=1000"),
    ]
    number = itertools.count()

    def script() -> float:
        code = "from gptlab.bench.isolated import time_plain_script; "
        code += f"print(time_plain_script({arguments}))"
        imports = [sys.executable, "-c", "import torch"]
        import_seconds = timed(partial(subprocess.run, imports, check=True))()
        output = subprocess.check_output([sys.executable, "-c", code])
        return import_seconds + float(output.split()[-1])

    def command(cache: str) -> float:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(Path(cache).absolute())}
        train = [sys.executable, "-m", "gptlab", "train", *arguments]
        run = partial(subprocess.run, train, env=environment, capture_output=True, check=True)
        return timed(run)()

    contenders = {
        "nanoGPT-style script": script,
        "gptlab train, never compiled": lambda: command(f"cache_{next(number)}"),
        "gptlab train, compiled before": lambda: command("cache_0"),
    }
    compare_timings(contenders, rounds, "s", warm_up=False)


STARTUP_SCRIPT = """
import os, sys, time
sys.argv = {arguments!r}
from gptlab.training.module import LanguageModel
def print_time(*_):
    print(time.time(), file=sys.__stderr__, flush=True)
    os._exit(0)
LanguageModel.on_train_batch_start = print_time
from gptlab.training.__main__ import main
main()
"""


def startup(rounds: int) -> None:
    """From the command to the first step, with a finished corpus."""

    def seconds_until_time_printed(code: str) -> float:
        start = time.time()
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
        )
        return float(process.stderr.split()[-1]) - start

    def train(compile_mode: str) -> float:
        arguments = ["train.py", *TINY_CHAR, f"trainer.compile={compile_mode}"]
        return seconds_until_time_printed(STARTUP_SCRIPT.format(arguments=arguments))

    imports = "import sys, time, lightning.pytorch; print(time.time(), file=sys.stderr)"
    contenders = {
        "import lightning": lambda: seconds_until_time_printed(imports),
        "to the first step, not compiled": lambda: train("false"),
        "to the first step, compiled before": lambda: train("step"),
    }
    imported, *started = compare_timings(contenders, rounds, "s")
    for timing in started:
        print(f"  {timing.name}: {timing.median - imported.median:.2f} s more than the import")


def tokenization(rounds: int) -> None:
    """Tokenize 50 MB of stories: one tiktoken thread that writes nothing, and a whole corpus."""
    encoding = GPT2Tokenizer().bpe
    texts = [story_grammar().generate(1, number).text for number in range(20_000)]
    texts *= 50_000_000 // sum(map(len, texts)) + 1
    path = Path("stories.txt")
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    megabytes = path.stat().st_size / 1e6
    number = itertools.count()

    def build_corpus() -> None:
        data = DataConfig(source="text", path=str(path))
        open_corpus(data, TokenizerConfig(name="gpt2"), 1, f"corpora_{next(number)}")

    def encode() -> None:
        for text in texts:
            encoding.encode_ordinary(text)

    contenders = {
        "tiktoken, one thread, nothing written": timed(encode),
        "gptlab's finished, checksummed corpus": timed(build_corpus),
    }
    compare_timings(contenders, rounds, "s", lambda timing: f"{megabytes / timing.median:.1f} MB/s")


PARTS = {
    "machine": machine,
    "step": step,
    "medium": medium,
    "large": large,
    "overhead": overhead,
    "dashboards": dashboards,
    "full_run": full_run,
    "startup": startup,
    "tokenization": tokenization,
    "generation": generation,
}
