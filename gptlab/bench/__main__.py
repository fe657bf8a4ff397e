"""How fast is it here, and against what? `python -m gptlab.bench`, or some of its parts by name.

Everything is measured in pairs that take turns; `×` is the ratio to the first line, with its
spread. Runs are written to a temporary folder and thrown away.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gptlab.bench import baselines, roofline
from gptlab.bench.generation import generation
from gptlab.bench.isolated import time_in_processes
from gptlab.bench.timing import time_in_pairs, timed
from gptlab.config.schema import DataConfig, TokenizerConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.data.toy.stories import write
from gptlab.training.run_summary import cpu_name

HOME = Path(__file__).resolve().parent.parent.parent
CHARACTERS = ["experiment=tiny_char", "data=toy_stories", "tokenizer=char", "data.batching=random"]
CHARACTERS += ["trainer.accelerator=cpu"]  # where the bare loops are
NOTHING = [*CHARACTERS, "model.n_layer=1", "model.d_model=4", "model.context_length=4"]
SUBWORDS = ["data=toy_stories", "tokenizer=gpt2", "data.batching=random", "optim=adamw_cosine"]
SUBWORDS += ["model.dropout=0", "model.attention_dropout=0", "trainer.accelerator=cpu"]
QUIET = ["eval_after=[perplexity]", "data.final_tokens=2000", "trainer.sample_every=0"]
QUIET += ["trainer.eval_every=0", "logger=none", "trainer.checkpoint_every=0"]


STEPS = 200


def machine(rounds: int) -> None:
    """What no program can exceed here."""
    print(f"  {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"  matrix products, float32: {roofline.matrix_products(rounds) / 1e9:.0f} GFLOP/s")
    print(f"  reading memory: {roofline.reading(rounds) / 1e9:.1f} GB/s")


def step(rounds: int) -> None:
    """tiny_char's step: a plain loop in nanoGPT's manner, our own bare loop, gptlab."""
    made = bare_loops(CHARACTERS)
    contenders = {name: functools.partial(bare.run, STEPS) for name, bare in made.items()}
    for mode in ("false", "step"):
        arguments = [*CHARACTERS, *QUIET, f"trainer.compile={mode}"]
        contenders[f"gptlab, trainer.compile={mode}"] = functools.partial(
            baselines.through_gptlab, arguments, STEPS
        )
    work = roofline.work_of(CHARACTERS)
    for timing in time_in_pairs(contenders, rounds):
        print(timing.line(), f" {work.line(timing.median)}")


def medium(rounds: int) -> None:
    """16M parameters, vocabulary 50,304, 4 × 512 tokens; each contender in its own process."""
    arguments = ["model=gpt_16m", "data.batch_size=4", "data.row_length=513", *SUBWORDS]
    time_in_processes([*arguments, *QUIET], rounds)


def large(rounds: int) -> None:
    """GPT-2's width and vocabulary, 4 layers, 8 × 256 tokens; likewise."""
    arguments = ["model=small", "model.n_layer=4", "model.context_length=256", *SUBWORDS]
    time_in_processes([*arguments, "data.batch_size=8", *QUIET], rounds)


def overhead(rounds: int) -> None:
    """What the framework costs a step, whatever the net: here it has next to nothing to do."""
    made = bare_loops(NOTHING)["bare loop of gptlab's parts"]
    timings = time_in_pairs(
        {
            "bare loop of gptlab's parts": lambda: made.run(5 * STEPS),
            "gptlab": lambda: baselines.through_gptlab([*NOTHING, *QUIET], 5 * STEPS),
        },
        rounds,
    )
    for timing in timings:
        print(timing.line())
    costs = [mine - bare for bare, mine in zip(*(t.seconds for t in timings), strict=True)]
    low, high = min(costs) * 1e3, max(costs) * 1e3
    print(f"  a step costs {statistics.median(costs) * 1e3:.2f} ms more ({low:.2f} to {high:.2f})")


def bare_loops(arguments: list[str]) -> dict[str, baselines.BareLoop]:
    made: dict[str, baselines.BareLoop] = {}

    def look(config: TrainConfig) -> None:
        corpus = open_corpus(config.data, config.tokenizer, config.seed, config.corpus_root)
        made["plain loop, in nanoGPT's manner"] = baselines.as_nanogpt(config, corpus)
        made["bare loop of gptlab's parts"] = baselines.bare(config, corpus)

    baselines.configured(arguments, look)
    return made


def dashboards(rounds: int) -> None:
    """tiny_char with every dashboard, samples and checkpoints on, and with all off; compiled, and
    validated as often, with both."""
    both = ["trainer.compile=step", "data.final_tokens=2000", "trainer.eval_every=1000"]
    often = ["trainer.sample_every=1000", "trainer.checkpoint_every=1000"]
    off, on = [*CHARACTERS, *QUIET, *both], [*CHARACTERS, *both, *often]
    timings = time_in_pairs(
        {
            "all off": lambda: baselines.through_gptlab(off, 10 * STEPS),
            "all on": lambda: baselines.through_gptlab(on, 10 * STEPS),
        },
        rounds,
    )
    for timing in timings:
        print(timing.line())


def whole(rounds: int) -> None:
    """All of tiny_char's 10,000 iterations from the command on, validation and checkpoints
    included: a plain script, and gptlab, that has compiled this before or never."""
    arguments = [*CHARACTERS, "trainer.max_steps=10000", "data.final_tokens=2000"]
    arguments += [
        "eval_after=[perplexity]",
        "trainer.eval_every=1000",
        "trainer.checkpoint_every=1000",
    ]
    number = iter(range(10**6))

    def script() -> float:
        code = f"from gptlab.bench.isolated import whole_script; print(whole_script({arguments}))"
        bare = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))()
        return bare + float(subprocess.check_output([sys.executable, "-c", code]).split()[-1])

    def command(cache: str) -> float:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(Path(cache).absolute())}
        typed = [sys.executable, str(HOME / "train.py"), *arguments]
        run = functools.partial(subprocess.run, typed, env=environment, capture_output=True)
        return timed(lambda: run(check=True))()

    contenders = {
        "plain script, in nanoGPT's manner": script,
        "python train.py, never compiled": lambda: command(f"cache_{next(number)}"),
        "python train.py, compiled before": lambda: command("cache_0"),
    }
    for timing in time_in_pairs(contenders, rounds, warm=False):
        print(timing.line("s"))


def start(rounds: int) -> None:
    """From typing the command to the first step, the corpus being ready."""
    first = "import time, lightning.pytorch; print(time.time())"
    script = (
        "import sys, time; sys.path.insert(0, {home!r}); sys.argv = {argv!r}\n"
        "import gptlab.training.module as module\n"
        "def begin(*_):\n"
        "    print(time.time(), file=sys.__stderr__, flush=True); import os; os._exit(0)\n"
        "module.LanguageModel.on_train_batch_start = begin\n"
        "import train; train.main()\n"
    )

    def until(code: str) -> float:
        began = time.time()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return float((done.stdout if code == first else done.stderr).split()[-1]) - began

    def command(compiled: str) -> float:
        typed = ["train.py", *CHARACTERS, f"trainer.compile={compiled}"]
        return until(script.format(home=str(HOME), argv=typed))

    contenders = {
        "import lightning": lambda: until(first),
        "to the first step, not compiled": lambda: command("false"),
        "to the first step, compiled before": lambda: command("step"),
    }
    timings = time_in_pairs(contenders, rounds)
    for timing in timings:
        print(timing.line("s"))
    for timing in timings[1:]:
        above = timing.median - timings[0].median
        print(f"  {timing.name}: {above:.2f} s above the bare import")


def tokenise(rounds: int) -> None:
    """50 MB of stories: one tiktoken thread that writes nothing, and the finished corpus."""
    encoding = GPT2Tokenizer().bpe
    texts = [write(1, number).text for number in range(20_000)]
    texts *= 50_000_000 // sum(map(len, texts)) + 1
    Path("stories.txt").write_text("\n<|endoftext|>\n".join(texts))
    size = Path("stories.txt").stat().st_size / 1e6
    number = iter(range(10**6))

    def corpus() -> None:
        data = DataConfig(source="text", path="stories.txt")
        open_corpus(data, TokenizerConfig(name="gpt2"), 1, f"corpora_{next(number)}")

    timings = time_in_pairs(
        {
            "tiktoken, one thread, nothing written": timed(
                lambda: [encoding.encode_ordinary(text) for text in texts]
            ),
            "gptlab's finished, checksummed corpus": timed(corpus),
        },
        rounds,
    )
    for timing in timings:
        print(timing.line("s"), f" {size / timing.median:.1f} MB/s")


PARTS: dict[str, Callable[[int], None]] = {
    "machine": machine,
    "step": step,
    "medium": medium,
    "large": large,
    "overhead": overhead,
    "dashboards": dashboards,
    "whole": whole,
    "start": start,
    "tokenise": tokenise,
    "generation": generation,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gptlab.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    if strange := set(wanted.parts) - set(PARTS):
        parser.error(
            f"{', '.join(strange)}: there is no such part; the parts are {', '.join(PARTS)}"
        )
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in wanted.parts or PARTS:
            print(f"{name}: {PARTS[name].__doc__}", flush=True)
            PARTS[name](wanted.rounds)
        os.chdir(before)


if __name__ == "__main__":
    main()
