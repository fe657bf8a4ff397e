"""What is measured before the first step and after the last: each suite a function, in a table."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.config.schema import TrainConfig
from gptlab.data.dataloader import Batch, TextDataModule
from gptlab.evaluation import hellaswag
from gptlab.evaluation.classification import ClassificationResult, evaluate_classifier
from gptlab.evaluation.memorisation import measure_memorisation
from gptlab.evaluation.perplexity import Score, score_split
from gptlab.evaluation.responses import generate_responses
from gptlab.evaluation.responses import score_responses as score_responses
from gptlab.generation.engine import generate_samples, training_prompt
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from gptlab.model.loss import perplexity as exp_perplexity
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.run_plan import RunPlan
from gptlab.utils.errors import UserError, resolve_choice

Results = dict[str, float]
MEMORISATION_SAMPLES = 20  # texts searched for verbatim spans
ESTIMATE_BATCHES = 200  # batches of an estimate, as nanoGPT's `eval_iters`


@dataclass
class TrainingEvaluator:
    """All that the suites need of a run."""

    config: TrainConfig
    plan: RunPlan
    data: TextDataModule
    token_bytes: torch.Tensor
    folder: Path | None = None  # of the run, when it has ended: for what is no number

    def run(self, suites: list[str], net: GPT, max_tokens: int | None) -> Results:
        """The figures of these suites, by name, for a net as it stands."""
        results: Results = {}
        for name in suites:
            if name != "samples":  # written by the Samples callback
                results |= resolve_choice("suite", name, SUITES)(self, net, max_tokens)
        return results

    def score(self, net: GPT, batches: Iterable[Batch]) -> Score:
        return score_split(net, batches, self.token_bytes, self.plan.precision)


def score_results(name: str, score: Score) -> Results:
    return {
        f"{name}/loss": score.loss,
        f"{name}/perplexity": score.perplexity,
        f"{name}/bits_per_byte": score.bits_per_byte,
        f"{name}/tokens": score.tokens,
    }


def perplexity(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
    """Every held-out split in its own order, each target once; of a classifier what it tells."""
    results: Results = {}
    for split in examiner.data.corpus.splits:
        if split != "train":
            batches = examiner.data.load(examiner.data.validation(split, max_tokens))
            if classes := examiner.data.corpus.classes:
                found = evaluate_classifier(net, batches, examiner.plan.precision)
                results |= classification_results(split, found, classes)
            else:
                results |= score_results(split, examiner.score(net, batches))
    return results


def classification_results(name: str, found: ClassificationResult, classes: list[str]) -> Results:
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


def responses(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
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
    told = generate_responses(net, tokenizer, prompts, config.max_new_tokens)
    if examiner.folder:
        rows = [record | {"response": text} for record, text in zip(asked, told, strict=True)]
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (examiner.folder / "responses.json").write_text(text, encoding="utf-8")
    found = score_responses([record["output"] for record in asked], told)
    results = asdict(found)
    return {f"responses/{name}": value for name, value in results.items() if value is not None}


def estimate(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
    """The held-out loss from a few random batches, as projects often give it."""
    batches = examiner.data.drawn("valid")
    drawn = examiner.score(net, (batches[number] for number in range(ESTIMATE_BATCHES)))
    return score_results("estimate", drawn)


def windows(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
    """The loss on the training windows themselves: what a model that memorises is good at.

    At most as many targets as the validation passes score.
    """
    batches = examiner.data.drawn("train")
    shape, most = batches.shape, max_tokens or examiner.config.data.valid_tokens
    tokens = shape.rows_per_step * batches.windows.length
    count = min(-(-len(batches.windows) // shape.rows_per_step), max(1, most // tokens))
    drawn = examiner.score(net, (batches[number] for number in range(count)))
    return score_results("windows", drawn)


def multiple_choice(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
    """HellaSwag, on all its questions."""
    config = examiner.config
    questions = hellaswag.read_questions(config.hellaswag, raw_folder(config))
    tqdm.write(f"hellaswag: {len(questions):,} questions, four endings each")  # may take long
    result = hellaswag.answer_questions(
        *(net, examiner.data.corpus.tokenizer, questions),
        *(examiner.plan.precision, config.hellaswag.batch_size),
    )
    return {f"hellaswag/{name}": value for name, value in result.figures().items()}


def memorisation(examiner: TrainingEvaluator, net: GPT, max_tokens: int | None) -> Results:
    """Verbatim spans of the training text in the model's own, and in as much held-out text."""
    config, corpus = examiner.config, examiner.data.corpus
    prompt = training_prompt(config, corpus)
    request = GenerationRequest(
        *(net, corpus.tokenizer, prompt, config.sampling),
        num_samples=MEMORISATION_SAMPLES,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    written = [sample.new_tokens for sample in generate_samples(request)]
    held_out, ends = corpus.tokens("valid"), corpus.ends("valid")
    begins = [0, *ends[:-1]]
    real = [
        held_out[begin + len(prompt) : end - 1][: config.max_new_tokens].tolist()
        for begin, end in list(zip(begins, ends, strict=True))[:MEMORISATION_SAMPLES]
    ]
    results: Results = {}
    for name, texts in (("memorisation", written), ("memorisation_held_out", real)):
        found = measure_memorisation(corpus.tokens("train"), texts)
        results[f"{name}/longest"] = found.longest
        results[f"{name}/mean_longest"] = found.mean_longest
        results |= {f"{name}/{n}_grams": share for n, share in found.grams.items()}
    return results


# Of these the figures are the last checkpoint's: the best one has overfitted least.
LAST_CHECKPOINT_SUITES = ("windows", "memorisation")

SUITES: dict[str, Callable[[TrainingEvaluator, GPT, int | None], Results]] = {
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
    for key, names in (("eval_before", config.eval_before), ("eval_after", config.eval_after)):
        for name in names:
            resolve_choice(key, name, {**SUITES, "samples": None})
    data, named = config.data, {*config.eval_before, *config.eval_after}
    if strange := named - {"perplexity", "samples"} if data.task == "classification" else None:
        raise UserError(f"eval_after, eval_before: {', '.join(strange)} is of models that write")
    if "responses" in named and (data.task != "instructions" or not data.test_split):
        raise UserError("responses: are to test instructions: data=instructions, data.test_split")
    if "perplexity" not in config.eval_after:
        raise UserError(
            f"eval_after={config.eval_after}: needs perplexity, by which runs are compared"
        )
    if "hellaswag" in (*config.eval_before, *config.eval_after):
        hellaswag.read_questions(config.hellaswag, raw_folder(config))


def check_spelling(examiner: TrainingEvaluator) -> None:
    """Raises UserError where a suite's text cannot be spelled in the corpus's vocabulary."""
    config = examiner.config
    if "hellaswag" in (*config.eval_before, *config.eval_after):
        questions = hellaswag.read_questions(config.hellaswag, raw_folder(config))
        try:
            hellaswag.sequences(questions, examiner.data.corpus.tokenizer, 1)
        except UserError as error:
            raise UserError(f"hellaswag: {error}") from None


class InitialEvaluation(StepCallback):
    """Runs the suites of `before` at step 0, and keeps their figures."""

    def __init__(
        self,
        examiner: TrainingEvaluator,
        metrics_logger: MetricsLogger,
        shutdown: GracefulShutdown,
    ):
        self.examiner = examiner
        self.metrics_logger = metrics_logger
        self.shutdown = shutdown
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
        with self.metrics_logger.timer_paused(), self.shutdown.interruptible():
            self.results = self.examiner.run(
                config.eval_before, module.net, config.data.final_tokens
            )
        if self.results:
            self.metrics_logger.log_metrics(trainer, self.results, update_latest=False)
