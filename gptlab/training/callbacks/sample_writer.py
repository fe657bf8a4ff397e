"""Generate text while the model trains and show it."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from gptlab.config.schema import SamplingConfig
from gptlab.data.tokenizer import decode
from gptlab.evaluation.classification import class_probabilities
from gptlab.evaluation.suites import SAMPLES
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from gptlab.training.callbacks.graceful_shutdown import GracefulShutdown
from gptlab.training.callbacks.metrics_logger import MetricsLogger
from gptlab.training.callbacks.step_callback import StepCallback
from gptlab.training.run_plan import TrainingSetup
from gptlab.utils.errors import UserError

MAX_MESSAGES = 16  # held-out messages to classify
MAX_TERMINAL_LENGTH = 400  # characters

# Heading in the samples file -> sampling settings and number of samples.
SampleKinds = dict[str, tuple[SamplingConfig, int]]


class SampleWriter(StepCallback):
    """Write samples to `samples/`, the loggers and the terminal."""

    def __init__(
        self,
        setup: TrainingSetup,
        folder: Path,
        metrics_logger: MetricsLogger,
        shutdown: GracefulShutdown,
    ):
        self.folder = folder / "samples"
        self.config, self.plan = setup.config, setup.plan
        self.tokenizer, self.prompt = setup.corpus.tokenizer, setup.prompt
        self.metrics_logger, self.shutdown = metrics_logger, shutdown
        self.sampled: SampleKinds = {"sampled": (self.config.sampling, self.config.num_samples)}
        self.greedy: SampleKinds = {"greedy": (SamplingConfig(temperature=0.0), 1)}
        self.completed_step = 0  # the last step with all its samples written

    def state_dict(self) -> dict[str, int]:
        return {"completed_step": self.completed_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.completed_step = state["completed_step"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        at_start = SAMPLES in self.config.eval_before and self.step == 0
        if at_start and trainer.is_global_zero:
            self.write_samples(trainer, module, f"step_{self.step}", self.sampled)
        if self.completed_step < self.step:  # the run was stopped while it sampled
            self.on_step(trainer, module, None)

    def on_step(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if trainer.is_global_zero:
            with self.shutdown.interruptible():
                self.write_due_samples(trainer, module)
        self.completed_step = self.step

    def write_due_samples(self, trainer: Trainer, module: LightningModule) -> None:
        epoch = self.plan.completed_epoch(self.step)
        if epoch and self.config.trainer.sample_every_epoch:
            kinds = self.greedy | self.sampled
            self.write_samples(trainer, module, f"generated_text_epoch_{epoch}", kinds)
        interval, is_last = self.plan.sample_every, self.step == self.plan.steps
        if interval and (self.step % interval == 0 or is_last):
            self.write_samples(trainer, module, f"step_{self.step}", self.sampled)

    def write_samples(self, trainer: Trainer, module: Any, name: str, kinds: SampleKinds) -> None:
        with self.metrics_logger.timer_paused():
            try:
                texts, preview = self.generate_texts(module.net, kinds)
            except UserError as error:  # a diverged model cannot sample, but the run may continue
                tqdm.write(f"  step {self.step:,}: no sample: {error}\n")
                return
            self.folder.mkdir(exist_ok=True)
            (self.folder / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
            for logger in trainer.loggers:
                experiment = getattr(logger, "experiment", None)
                for writer in (logger, experiment):  # a tracker of ours, or TensorBoard's writer
                    if add_text := getattr(writer, "add_text", None):
                        add_text("samples", "\n\n".join(texts), self.step)
            line = " ".join(preview.split())
            rest = " …" if len(line) > MAX_TERMINAL_LENGTH else ""
            tqdm.write(f"  step {self.step:,}: {line[:MAX_TERMINAL_LENGTH]}{rest}\n")

    def generate_texts(self, net: GPT, kinds: SampleKinds) -> tuple[list[str], str]:
        """Return the texts for the file, and the one to show on the terminal."""
        prompt_text = decode(self.tokenizer, self.prompt)
        texts, preview = [], ""
        for kind, (sampling, num_samples) in kinds.items():
            length, seed = self.config.max_new_tokens, self.config.seed
            text = net, self.tokenizer, self.prompt
            request = GenerationRequest(*text, sampling, num_samples, length, seed)
            samples = generate_samples(request)
            texts += [f"[{kind}]\n{prompt_text}{sample.text}\n" for sample in samples]
            preview = prompt_text + samples[0].text
        return texts, preview


class PredictionWriter(SampleWriter):
    """Write a classifier's predictions for held-out messages instead of samples."""

    def __init__(self, setup: TrainingSetup, *arguments: Any):
        super().__init__(setup, *arguments)
        corpus = setup.corpus
        self.classes = corpus.classes or []
        messages = corpus.documents("valid", MAX_MESSAGES)
        self.labeled_messages = [
            (decode(self.tokenizer, tokens), self.classes[label])
            for tokens, label in zip(messages, corpus.labels("valid"), strict=False)
        ]
        self.eot_first = self.prompt[:1] == [self.tokenizer.eot]

    @property
    def state_key(self) -> str:
        return SampleWriter.__name__  # both classes share checkpoint state

    def generate_texts(self, net: GPT, kinds: SampleKinds) -> tuple[list[str], str]:
        lines, was_training = [], net.training
        net.eval()
        for text, label in self.labeled_messages:
            ids, eot = self.tokenizer.encode(text), self.tokenizer.eot
            probabilities = class_probabilities(net, ids, eot, self.eot_first)
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            verdict = "right" if self.classes[best] == label else f"wrong, it is {label}"
            lines.append(f"{self.classes[best]} {probabilities[best]:.2f} ({verdict}): {text}\n")
        net.train(was_training)
        return lines, lines[0]
