"""Training, evaluation and generation work on a device without float64, such as Apple's GPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from gptlab.config.keys import CONF_DIR
from gptlab.config.schema import EvaluateConfig, OptimConfig, SamplingConfig
from gptlab.data.corpus import Corpus
from gptlab.data.dataloader import BatchShape, TextDataModule
from gptlab.evaluation import perplexity
from gptlab.evaluation.classification import make_metrics
from gptlab.evaluation.eval_context import EvalContext, count_token_bytes
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model import layers
from gptlab.training import device_check, preflight
from gptlab.training.module import LanguageModel
from gptlab.training.optim import OPTIMIZERS
from tests.conftest import toy_data
from tests.fake_gpu import NAME, fake_gpu
from tests.training.test_preflight import net

PRESETS = {
    file.stem: SamplingConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    for file in (CONF_DIR / "sampling").glob("*.yaml")
} | {"penalties": SamplingConfig(repetition_penalty=1.3, no_repeat_ngram=2)}


def plan(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(accelerator=NAME, precision="32-true", **changes)


@pytest.fixture(scope="module")
def data(toy_corpus: Corpus) -> TextDataModule:
    return TextDataModule(toy_corpus, toy_data(), 32, BatchShape(2, 1), seed=1)


def test_float64_is_noticed() -> None:
    with fake_gpu():
        assert (torch.ones(2).to(NAME) * 2).sum().item() == 4
        for use in (
            lambda: torch.ones(2).double().to(NAME),
            lambda: torch.ones(2).to(NAME).double(),
        ):
            with pytest.raises(TypeError, match="float64"):
                use()


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("position", layers.POSITIONS)
def test_loss_and_gradient_are_those_of_the_cpu(
    data: TextDataModule, position: str, attention: str, feed_forward: str
) -> None:
    size = data.corpus.tokenizer.vocab_size
    parts = {"position": position, "attention": attention, "feed_forward": feed_forward}
    model = net(vocab_size=size, **parts)
    model.max_logits = 50 * size  # the loss is computed in chunks, too
    batch = data.train_dataloader().dataset[0]
    with fake_gpu():
        pair = batch["input"], batch["target"]
        result, agrees = device_check.compare_to_cpu(model, pair, plan())
        assert agrees and "0.00%" in result, result
        row = pair[0][0].to(NAME)
        assert preflight.check_causality(model.to(NAME), row).passed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_and_a_validation_work(
    data: TextDataModule, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module's hooks, in Lightning's order, with the results of the CPU."""
    tokenizer = data.corpus.tokenizer
    bytes_V = count_token_bytes(tokenizer, tokenizer.vocab_size)
    config = OptimConfig(name=optimizer, lr=1e-3, schedule="cosine", warmup_steps=2)
    batch = data.train_dataloader().dataset[0]

    def train_and_validate(name: str) -> dict[str, float]:
        # Not tied: moving to the fake device makes two parameters of one.
        model = net(vocab_size=tokenizer.vocab_size, tied_head=False)
        module: Any = LanguageModel(model, config, 10, bytes_V, seed=1).to(name)
        logged: dict[str, float] = {}
        monkeypatch.setattr(module, "log_dict", lambda metrics, **_: logged.update(metrics))
        trainer = SimpleNamespace(
            **{"precision": "32-true", "global_step": 0, "global_rank": 0, "world_size": 1},
            **{"accumulate_grad_batches": 1, "optimizers": []},
        )
        monkeypatch.setattr(LanguageModel, "trainer", trainer)
        optimizers = module.configure_optimizers()
        trainer.optimizers.append(optimizers["optimizer"])
        moved = {k: v.to(name) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        for _ in range(3):
            module.on_train_batch_start(moved, 0)
            module.backward(module.training_step(moved, 0)["loss"])
            module.configure_gradient_clipping(optimizers["optimizer"])
            optimizers["optimizer"].step()
            optimizers["lr_scheduler"]["scheduler"].step()
        module.raise_if_diverged()
        module.on_validation_epoch_start()
        module.validation_step(moved, 0)
        module.on_validation_epoch_end()
        return logged

    expected = train_and_validate("cpu")
    with fake_gpu():
        assert train_and_validate(NAME) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_way_to_generate_gives_the_same_text(data: TextDataModule, preset: str) -> None:
    tokenizer = data.corpus.tokenizer

    def generate(name: str) -> list[list[int]]:
        model = net(vocab_size=tokenizer.vocab_size).to(name).eval()
        settings = {"num_samples": 2, "max_new_tokens": 6, "logprobs": True, "top_logprobs": 2}
        request = GenerationRequest(model, tokenizer, [1, 2, 3], PRESETS[preset], **settings)
        return [sample.tokens for sample in generate_samples(request)]

    expected = generate("cpu")
    with fake_gpu():
        assert generate(NAME) == expected


@pytest.mark.parametrize("by_document", [True, False])
def test_perplexity_is_that_of_the_cpu(data: TextDataModule, tmp_path, by_document: bool) -> None:
    tokenizer = data.corpus.tokenizer

    def evaluate(name: str) -> dict[str, float]:
        model = net(vocab_size=tokenizer.vocab_size).to(name)
        context = EvalContext(
            **{"config": EvaluateConfig(), "net": model, "tokenizer": tokenizer},
            **{"dataset": (data.config, data.corpus), "precision": "32-true", "batch_size": 4},
            **{"context_length": 32, "max_tokens": 200, "eot_first": True, "raw_dir": tmp_path},
            by_document=by_document,
        )
        return perplexity.evaluate_perplexity(context)

    expected = evaluate("cpu")
    with fake_gpu():
        assert evaluate(NAME) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifiers_metrics_are_those_of_the_cpu(classes: int) -> None:
    predicted, labels = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 0, 1, 1]])
    expected = make_metrics(classes)
    expected.update(predicted, labels)
    with fake_gpu():
        metrics = make_metrics(classes).to(NAME)
        metrics.update(predicted.to(NAME), labels.to(NAME))
        computed = metrics.compute()
        for name, value in expected.compute().items():
            assert computed[name].cpu().equal(value), name
