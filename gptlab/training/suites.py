"""What is measured before the first step and after the last: each suite a function, in a table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.config import TrainConfig
from gptlab.data.datamodule import TextData
from gptlab.data.loader import Batch
from gptlab.errors import UserError, look_up
from gptlab.evaluation import hellaswag
from gptlab.evaluation.memorisation import TokenIndex
from gptlab.evaluation.perplexity import Score, score
from gptlab.generation.beam import write
from gptlab.generation.engine import sample_prompt
from gptlab.model.gpt import GPT
from gptlab.training.callbacks import Interruption, StepCallback
from gptlab.training.meter import Meter
from gptlab.training.plan import Plan

Results = dict[str, float]
COPIES = 20  # texts searched for verbatim spans
DRAWN = 200  # batches of an estimate, as nanoGPT's `eval_iters`


@dataclass
class Examiner:
    """All that the suites need of a run."""

    config: TrainConfig
    plan: Plan
    data: TextData
    token_bytes: torch.Tensor

    def run(self, suites: list[str], net: GPT, most_tokens: int | None) -> Results:
        """The figures of these suites, by name, for a net as it stands."""
        results: Results = {}
        for name in suites:
            if name != "samples":  # written by the Samples callback
                results |= look_up("suite", name, SUITES)(self, net, most_tokens)
        return results

    def score(self, net: GPT, batches: Iterable[Batch]) -> Score:
        return score(net, batches, self.token_bytes, self.plan.precision)


def figures(name: str, score: Score) -> Results:
    return {
        f"{name}/loss": score.loss,
        f"{name}/perplexity": score.perplexity,
        f"{name}/bits_per_byte": score.bits_per_byte,
        f"{name}/tokens": score.tokens,
    }


def perplexity(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """Every held-out split in its own order, each target once."""
    results: Results = {}
    for split in examiner.data.corpus.splits:
        if split != "train":
            batches = examiner.data.load(examiner.data.validation(split, most_tokens))
            results |= figures(split, examiner.score(net, batches))
    return results


def estimate(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """The held-out loss from a few random batches, as projects often give it."""
    batches = examiner.data.drawn("valid")
    drawn = examiner.score(net, (batches[number] for number in range(DRAWN)))
    return figures("estimate", drawn)


def windows(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """The loss on the training windows themselves: what a model that memorises is good at.

    At most as many targets as the validation passes score.
    """
    batches = examiner.data.drawn("train")
    shape, most = batches.shape, most_tokens or examiner.config.data.valid_tokens
    tokens = shape.rows_per_step * batches.windows.length
    count = min(-(-len(batches.windows) // shape.rows_per_step), max(1, most // tokens))
    drawn = examiner.score(net, (batches[number] for number in range(count)))
    return figures("windows", drawn)


def multiple_choice(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """HellaSwag, on all its questions."""
    config = examiner.config
    questions = hellaswag.read(config.hellaswag, raw_folder(config))
    tqdm.write(f"hellaswag: {len(questions):,} questions, four endings each")  # may take long
    result = hellaswag.score(
        *(net, examiner.data.corpus.tokenizer, questions),
        *(examiner.plan.precision, config.hellaswag.batch_size),
    )
    return {
        "hellaswag/acc": result.acc,
        "hellaswag/acc_norm": result.acc_norm,
        "hellaswag/standard_error": result.standard_error,
        "hellaswag/n": result.questions,
    }


def memorisation(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """Verbatim spans of the training text in the model's own, and in as much held-out text."""
    config, corpus = examiner.config, examiner.data.corpus
    prompt = sample_prompt(config, corpus)
    wanted = (corpus.tokenizer, prompt, config.sampling, COPIES, config.max_new_tokens)
    written = [sample.written for sample in write(net, *wanted, seed=config.seed)]
    held_out, ends = corpus.tokens("valid"), corpus.ends("valid")
    begins = [0, *ends[:-1]]
    real = [
        held_out[begin + len(prompt) : end - 1][: config.max_new_tokens].tolist()
        for begin, end in list(zip(begins, ends, strict=True))[:COPIES]
    ]
    index = TokenIndex(corpus.path("train"), corpus.dtype)
    results: Results = {}
    for name, texts in (("memorisation", written), ("memorisation_held_out", real)):
        copied = index.copied(texts)
        results[f"{name}/longest"] = copied.longest
        results[f"{name}/mean_longest"] = copied.mean_longest
        results[f"{name}/10_grams"] = copied.grams
    return results


# Of these the figures are the last checkpoint's: the best one has overfitted least.
OF_THE_LAST = ("windows", "memorisation")

SUITES: dict[str, Callable[[Examiner, GPT, int | None], Results]] = {
    "perplexity": perplexity,
    "estimate": estimate,
    "windows": windows,
    "hellaswag": multiple_choice,
    "memorisation": memorisation,
}


def raw_folder(config: TrainConfig) -> Path:
    return Path(config.corpus_root).expanduser() / "raw"


def check_suites(config: TrainConfig) -> None:
    """Raises UserError for a suite that no table has, or whose file is not to be had."""
    for key, names in (("before", config.before), ("after", config.after)):
        for name in names:
            look_up(key, name, {**SUITES, "samples": None})
    if "perplexity" not in config.after:
        raise UserError(f"after={config.after}: needs perplexity, by which runs are compared")
    if "hellaswag" in (*config.before, *config.after):
        hellaswag.read(config.hellaswag, raw_folder(config))


def check_spelling(examiner: Examiner) -> None:
    """Raises UserError where a suite's text cannot be spelled in the corpus's vocabulary."""
    config = examiner.config
    if "hellaswag" in (*config.before, *config.after):
        questions = hellaswag.read(config.hellaswag, raw_folder(config))
        try:
            hellaswag.sequences(questions, examiner.data.corpus.tokenizer, 1)
        except UserError as error:
            raise UserError(f"hellaswag: {error}") from None


class Before(StepCallback):
    """Runs the suites of `before` at step 0, and keeps their figures."""

    def __init__(self, examiner: Examiner, meter: Meter, interruption: Interruption):
        self.examiner = examiner
        self.meter = meter
        self.interruption = interruption
        self.results: Results = {}

    def state_dict(self) -> Results:
        return self.results

    def load_state_dict(self, state: Results) -> None:
        self.results = dict(state)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        config = self.examiner.config
        if self.step:
            return
        with self.meter.paused(), self.interruption.at_once():
            self.results = self.examiner.run(config.before, module.net, config.data.final_tokens)
        if self.results:
            self.meter.write(trainer, self.results, remember=False)
