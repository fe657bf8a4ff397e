"""Optimizers, schedules and parameter groups."""

import pytest
import torch

from gptlab.config.schema import ModelConfig, OptimConfig
from gptlab.model.gpt import GPT
from gptlab.training.optim import (
    OPTIMIZERS,
    learning_rate,
    make_optimizer,
    optimizer_values_per_weight,
    parameter_groups,
    total_norm,
)

pytestmark = pytest.mark.fast


@pytest.fixture
def net() -> GPT:
    return GPT(ModelConfig(n_layer=1, n_head=2, d_model=16, context_length=128, vocab_size=20))


def test_schedules_have_their_published_shapes() -> None:
    def rates(**settings) -> list[float]:
        config = OptimConfig(lr=1.0, **settings)
        return [learning_rate(step, 100, config) for step in range(101)]

    assert set(rates()) == {1.0}
    warm = rates(warmup_steps=10)
    assert warm[:10] == pytest.approx([i / 10 for i in range(1, 11)]) and set(warm[10:]) == {1.0}
    cosine = rates(schedule="cosine", warmup_steps=10, min_lr=0.1)
    assert cosine[10] == pytest.approx(1.0) and cosine[55] == pytest.approx(0.55)
    assert cosine[100] == pytest.approx(0.1) and cosine[10:] == sorted(cosine[10:], reverse=True)
    wsd = rates(schedule="wsd", cooldown_fraction=0.2, min_lr=0.2)
    assert set(wsd[:81]) == {1.0} and wsd[90] == pytest.approx(0.6)
    assert wsd[100] == pytest.approx(0.2)


def test_weight_decay_applies_to_matrices_or_to_everything(net: GPT) -> None:
    names = {id(p): name for name, p in net.named_parameters()}
    groups = parameter_groups(net, OptimConfig(weight_decay=0.1))
    decay = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert decay.pop("embedding.weight") == 0.1
    assert all((rate == 0.1) == (net.get_parameter(name).ndim == 2) for name, rate in decay.items())
    (group,) = parameter_groups(net, OptimConfig(weight_decay_on="all"))
    assert len(group["params"]) == len(names)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs_by_name(net: GPT, name: str) -> None:
    optimizer = make_optimizer(net, OptimConfig(name=name, lr=0.5), fused=True)
    assert type(optimizer).__name__.lower() == name
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"name": "adamw"}, 2),
        ({"name": "adam"}, 2),
        ({"name": "sgd"}, 1),
        ({"name": "sgd", "momentum": 0.0}, 0),
    ],
)
def test_the_size_of_the_optimizer_state_is_counted(settings: dict, count: int) -> None:
    assert optimizer_values_per_weight(OptimConfig(**settings)) == count


def test_the_norm_of_all_gradients_is_torchs() -> None:
    gradients = [torch.randn(3, 4), torch.randn(5), torch.zeros(2)]
    assert torch.equal(total_norm(gradients), torch.nn.utils.get_total_norm(gradients))


def test_learning_rates_fall_from_the_head_down_and_each_weight_is_in_one_group() -> None:
    net, optim = (
        GPT(ModelConfig(n_layer=3, n_head=2, d_model=16, context_length=12, vocab_size=20)),
        OptimConfig(lr=1.0),
    )
    groups = parameter_groups(net, optim, layer_decay=0.5)
    assert groups[0]["lr"] == 1.0
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    expected = {"final_norm.": 1.0, "blocks.2.": 0.5, "blocks.1.": 0.25, "blocks.0.": 0.125}
    for name, parameter in net.named_parameters():
        rate = next((r for start, r in expected.items() if name.startswith(start)), 0.0625)
        assert rates[id(parameter)] == rate, name
    for group in groups:  # decay as ever
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    assert {g["lr"] for g in parameter_groups(net, optim)} == {1.0}
