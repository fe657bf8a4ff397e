"""What is measured before the first step and after the last: each suite a function, in a table."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.commands import TrainConfig
from gptlab.data.datamodule import TextData
from gptlab.data.loader import Batch
from gptlab.errors import UserError, look_up
from gptlab.evaluation import hellaswag
from gptlab.evaluation.classification import Verdicts, classify
from gptlab.evaluation.memorisation import copied
from gptlab.evaluation.perplexity import Score, score
from gptlab.evaluation.responses import respond
from gptlab.evaluation.responses import score as score_responses
from gptlab.generation.beam import write
from gptlab.generation.engine import sample_prompt
from gptlab.model.gpt import GPT
from gptlab.model.loss import perplexity as exp_perplexity
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
    folder: Path | None = None  # of the run, when it has ended: for what is no number

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
    """Every held-out split in its own order, each target once; of a classifier what it tells."""
    results: Results = {}
    for split in examiner.data.corpus.splits:
        if split != "train":
            batches = examiner.data.load(examiner.data.validation(split, most_tokens))
            if classes := examiner.data.corpus.classes:
                found = classify(net, batches, examiner.plan.precision)
                results |= class_figures(split, found, classes)
            else:
                results |= figures(split, examiner.score(net, batches))
    return results


def class_figures(name: str, found: Verdicts, classes: list[str]) -> Results:
    told = {
        f"{name}/{true}_as_{said}": count
        for true, row in zip(classes, found.confusion, strict=True)
        for said, count in zip(classes, row, strict=True)
    }
    return {
        f"{name}/loss": found.loss,
        f"{name}/perplexity": exp_perplexity(found.loss),
        f"{name}/accuracy": found.accuracy,
        f"{name}/f1": found.f1,
        f"{name}/tokens": found.messages,
        **told,
    }


def responses(examiner: Examiner, net: GPT, most_tokens: int | None) -> Results:
    """What the model makes of the test instructions, beside what was expected."""
    config, corpus = examiner.config, examiner.data.corpus
    asked = json.loads((corpus.folder / "test.json").read_text())
    stream, marks, tokenizer = corpus.tokens("test"), corpus.marks("test"), corpus.tokenizer
    begins = [0, *corpus.ends("test")[:-1]]
    first = [tokenizer.eot] if config.data.eot_first else []
    prompts = [
        first + stream[begin : begin + mark].tolist()
        for begin, mark in zip(begins, marks, strict=True)
    ]
    told = respond(net, tokenizer, prompts, config.max_new_tokens)
    if examiner.folder:
        rows = [record | {"response": text} for record, text in zip(asked, told, strict=True)]
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (examiner.folder / "responses.json").write_text(text, encoding="utf-8")
    found = score_responses([record["output"] for record in asked], told)
    results = asdict(found)
    return {f"responses/{name}": value for name, value in results.items() if value is not None}


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
    return {f"hellaswag/{name}": value for name, value in result.figures().items()}


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
    results: Results = {}
    for name, texts in (("memorisation", written), ("memorisation_held_out", real)):
        found = copied(corpus.tokens("train"), texts)
        results[f"{name}/longest"] = found.longest
        results[f"{name}/mean_longest"] = found.mean_longest
        results |= {f"{name}/{n}_grams": share for n, share in found.grams.items()}
    return results


# Of these the figures are the last checkpoint's: the best one has overfitted least.
OF_THE_LAST = ("windows", "memorisation")

SUITES: dict[str, Callable[[Examiner, GPT, int | None], Results]] = {
    "perplexity": perplexity,
    "estimate": estimate,
    "windows": windows,
    "hellaswag": multiple_choice,
    "memorisation": memorisation,
    "responses": responses,
}


def raw_folder(config: TrainConfig) -> Path:
    return Path(config.corpus_root).expanduser() / "raw"


def check_suites(config: TrainConfig) -> None:
    """Raises UserError for a suite that no table has, or whose file is not to be had."""
    for key, names in (("before", config.before), ("after", config.after)):
        for name in names:
            look_up(key, name, {**SUITES, "samples": None})
    data, named = config.data, {*config.before, *config.after}
    if strange := named - {"perplexity", "samples"} if data.task == "classification" else None:
        raise UserError(f"after, before: {', '.join(strange)} is of models that write")
    if "responses" in named and (data.task != "instructions" or not data.test_split):
        raise UserError("responses: are to test instructions: data=instructions, data.test_split")
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
