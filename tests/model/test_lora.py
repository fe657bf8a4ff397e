"""LoRA computes its paper's equation; freezing finds weights by name."""

import pytest
import torch

from gptlab.config.schema import FinetuneConfig, ModelConfig
from gptlab.model.gpt import GPT
from gptlab.model.lora import LoraLinear, add_lora, freeze, lora_layers, merge_lora
from gptlab.utils.errors import UserError

SMALL = ModelConfig(n_layer=3, n_head=2, d_model=16, context_length=12, vocab_size=20)
LORA = FinetuneConfig(trainable=["*.lora_*"], lora_rank=3)

pytestmark = pytest.mark.fast


def with_random_lora(net: GPT) -> GPT:
    """Fill the LoRA weights, which start at zero."""
    for _, layer in lora_layers(net):
        torch.nn.init.normal_(layer.lora_up, std=0.3)
    return net.eval()


def test_lora_starts_as_the_model_and_merging_keeps_its_output() -> None:
    torch.manual_seed(1)
    net, ids = GPT(SMALL).eval(), torch.randint(20, (2, 12))
    before = net(ids)
    add_lora(net, LORA)
    assert len(list(lora_layers(net))) == 4 * SMALL.n_layer
    assert net(ids).equal(before)
    with_random_lora(net)
    with_addition = net(ids)
    assert (with_addition - before).abs().max() > 0.01
    merge_lora(net)
    assert not list(lora_layers(net))
    assert (net(ids) - with_addition).abs().max() < 1e-5
    assert set(net.state_dict()) == set(GPT(SMALL).state_dict())


def test_lora_computes_the_equation_of_the_paper() -> None:
    plain = torch.nn.Linear(7, 5)
    layer = LoraLinear(plain, rank=2, alpha=6.0)
    torch.nn.init.normal_(layer.lora_up)
    x = torch.randn(3, 7)
    expected = x @ (plain.weight + 6.0 / 2 * layer.lora_up @ layer.lora_down).T + plain.bias
    assert (layer(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        (["*"], {"all"}),
        (["head.*"], {"head.weight", "head.bias"}),
        (["final_norm.*"], {"final_norm.weight", "final_norm.bias", "head.weight", "head.bias"}),
    ],
)
def test_only_named_weights_are_trained(trainable: list[str], trained: set[str]) -> None:
    config = ModelConfig(**vars(SMALL) | {"n_classes": 2, "tied_head": False, "head_bias": True})
    net = GPT(config)
    freeze(net, FinetuneConfig(trainable=trainable))
    learns = {name for name, p in net.named_parameters() if p.requires_grad}
    everything = {name for name, _ in net.named_parameters()}
    assert learns == (everything if trained == {"all"} else trained)


def test_blocks_can_be_counted_from_the_last() -> None:
    net = GPT(SMALL)
    freeze(net, FinetuneConfig(trainable=["blocks.-1.*"]))
    learns = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learns and all(name.startswith("blocks.2.") for name in learns)


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        (FinetuneConfig(trainable=["blocks.9.*"]), "matches nothing in this model; choose from "),
        (FinetuneConfig(lora_rank=2, lora_targets=["*.query"]), "lora_targets=*.query"),
        (FinetuneConfig(lora_rank=16), "must be below the width"),
        (FinetuneConfig(lora_rank=2, lora_targets=["head"]), "lora_targets=head"),  # tied
        (FinetuneConfig(trainable=[]), "nothing would be trained"),
    ],
)
def test_a_name_that_matches_no_weight_is_refused(finetune: FinetuneConfig, words: str) -> None:
    with pytest.raises(UserError) as refused:
        net = GPT(SMALL)
        add_lora(net, finetune)
        freeze(net, finetune)
    assert words in str(refused.value)
