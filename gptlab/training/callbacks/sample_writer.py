"""What the model writes while it trains."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.config.schema import SamplingConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import Tokenizer, decode
from gptlab.evaluation.classification import class_probabilities
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import GracefulShutdown, StepCallback, epoch_ended
from gptlab.training.run_plan import RunPlan
from gptlab.utils.errors import UserError

MAX_MESSAGES = 16  # messages


class SampleWriter(StepCallback):
    """Lets the model write, into `samples/`, the loggers and the terminal."""

    def __init__(
        self,
        folder: Path,
        plan: RunPlan,
        meter: MetricsLogger,
        tokenizer: Tokenizer,
        prompt: list[int],
        config: TrainConfig,
        interruption: GracefulShutdown,
    ):
        self.folder = folder / "samples"
        self.plan = plan
        self.meter = meter
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.kinds = {"sampled": (config.sampling, config.num_samples)}
        self.greedy = {"greedy": (SamplingConfig(temperature=0.0), 1)}
        self.max_new_tokens = config.max_new_tokens
        self.seed = config.seed
        self.every_epoch = config.trainer.sample_every_epoch
        self.at_start = "samples" in config.eval_before
        self.interruption = interruption
        self.done = 0  # the last step whose samples are written

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.at_start and trainer.is_global_zero and self.step == 0:
            self.write(trainer, module, f"step_{self.step}", self.kinds)
        if self.done < self.step:  # stopped in the middle of them
            self.on_step(trainer, module, None)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if trainer.is_global_zero:
            with self.interruption.at_once():
                self.write_due(trainer, module)
        self.done = self.step

    def write_due(self, trainer: Trainer, module: LightningModule) -> None:
        if epoch := epoch_ended(self.plan, self.step) if self.every_epoch else None:
            self.write(trainer, module, f"generated_text_epoch_{epoch}", self.greedy | self.kinds)
        every, last = self.plan.sample_every, self.step == self.plan.steps
        if every and (self.step % every == 0 or last):
            self.write(trainer, module, f"step_{self.step}", self.kinds)

    def write(self, trainer: Trainer, module: LightningModule, name: str, kinds: dict) -> None:
        with self.meter.paused():
            try:
                self.write_now(trainer, module, name, kinds)
            except UserError as error:  # a model that has diverged is no reason to end the run
                tqdm.write(f"  step {self.step:,}: no sample: {error}\n")

    def write_now(self, trainer: Trainer, module: LightningModule, name: str, kinds: dict) -> None:
        lines, first = self.texts(module.net, kinds)
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_text"):
                logger.experiment.add_text("samples", "\n\n".join(lines), self.step)
        shown = " ".join(first.split())
        short = shown if len(shown) <= 400 else shown[:400] + " …"
        tqdm.write(f"  step {self.step:,}: {short}\n")

    def texts(self, net: GPT, kinds: dict) -> tuple[list[str], str]:
        """The samples' file, text by text, and what the terminal shows of it."""
        opening = decode(self.tokenizer, self.prompt)
        lines, first = [], ""
        for kind, (sampling, n) in kinds.items():
            request = GenerationRequest(
                *(net, self.tokenizer, self.prompt, sampling),
                num_samples=n,
                max_new_tokens=self.max_new_tokens,
                seed=self.seed,
            )
            samples = generate_samples(request)
            lines += [f"[{kind}]\n{opening}{sample.text}\n" for sample in samples]
            first = opening + samples[0].text
        return lines, first


class ClassifiedExamples(SampleWriter):
    """Of a classifier: held-out messages, and what it takes them for."""

    def __init__(self, *arguments: Any, corpus: Corpus, **more: Any) -> None:
        super().__init__(*arguments, **more)
        ends = corpus.ends("valid")[:MAX_MESSAGES].tolist()
        stream, names = corpus.tokens("valid"), corpus.classes
        self.messages = [
            (decode(self.tokenizer, stream[begin:end].tolist()), names[label])
            for begin, end, label in zip([0, *ends], ends, corpus.marks("valid"), strict=False)
        ]
        self.classes = names
        self.eot_first = bool(self.prompt) and self.prompt[0] == self.tokenizer.eot

    @property
    def state_key(self) -> str:
        return SampleWriter.__name__  # what a checkpoint keeps of it is the same

    def texts(self, net: GPT, kinds: dict) -> tuple[list[str], str]:
        lines, was_training = [], net.training
        net.eval()
        for text, label in self.messages:
            found = class_probabilities(net, self.tokenizer, text, self.eot_first)
            said = max(range(len(found)), key=found.__getitem__)
            right = "right" if self.classes[said] == label else f"wrong, it is {label}"
            lines.append(f"{self.classes[said]} {found[said]:.2f} ({right}): {text}\n")
        net.train(was_training)
        return lines, lines[0]
