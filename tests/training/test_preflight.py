"""Checks before the first step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gptlab.config.schema import ModelConfig
from gptlab.model.gpt import GPT
from gptlab.model.layers import FEED_FORWARDS
from gptlab.training import preflight
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY, files_below


def net(**changes) -> GPT:
    torch.manual_seed(0)
    settings = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 32, "vocab_size": 50}
    return GPT(ModelConfig(**(settings | changes)))


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rotary", "none"])
def test_a_causal_model_has_no_gradient_from_the_future(norm: str, position: str) -> None:
    check = preflight.check_causality(net(norm=norm, position=position), torch.arange(20))
    assert check.passed and check.result == "none"


@pytest.mark.fast
def test_a_configured_leak_is_reported_and_any_other_is_refused(monkeypatch) -> None:
    check = preflight.check_causality(net(let_attention_see_the_future=True), torch.arange(20))
    assert not check.passed and "LEAKS" in check.result

    class Mixer(nn.Module):
        """A mistake: averages over all tokens, including later ones."""

        def __init__(self, config: ModelConfig):
            super().__init__()

        def forward(self, x):
            return x.mean(dim=1, keepdim=True).expand_as(x)

    monkeypatch.setitem(FEED_FORWARDS, "mixer", Mixer)
    with pytest.raises(UserError, match="the model sees the future"):
        preflight.check_causality(net(feed_forward="mixer"), torch.arange(20))


@pytest.mark.fast
def test_a_first_loss_far_above_chance_fails_its_check() -> None:
    assert preflight.check_first_loss(4.0, vocabulary=50).passed
    check = preflight.check_first_loss(9.0, vocabulary=50)
    assert not check.passed and "ln(vocabulary) = 3.912" in str(check)


@pytest.mark.fast
def test_overfitting_fails_only_if_the_gradient_does_not_reach_the_weights() -> None:
    source, target = torch.randint(50, (2, 4, 16), generator=torch.Generator().manual_seed(0))
    intact = net()
    before = {name: weight.clone() for name, weight in intact.state_dict().items()}
    assert preflight.check_overfitting(intact, source, target).passed
    assert all(torch.equal(before[name], w) for name, w in intact.state_dict().items())
    frozen = net(tied_head=False)
    frozen.requires_grad_(False)
    frozen.head.weight.requires_grad_()
    nn.init.zeros_(frozen.embedding.weight)
    assert not preflight.check_overfitting(frozen, source, target).passed


def test_preflight_only_prints_all_checks_and_creates_no_run(command, tmp_path: Path) -> None:
    result = command("train", *TINY, "preflight=only", "data.max_samples=60")
    assert result.code == 0, result.err
    for text in (
        *("preflight", "passes over the data", "memory ", " available", "time ", "first loss"),
        *("no gradient from the future: none", "splits do not overlap", "can be overfitted"),
    ):
        assert text in result.out, text
    assert result.out.count("  ok  ") == 4
    assert not (tmp_path / "runs").exists()


def test_a_run_prints_only_failed_checks(command, train_once) -> None:
    quiet = train_once(*TINY, "profile=smoke", "trainer.max_steps=2").result
    assert "memory " in quiet.out and "  ok  " not in quiet.out and "WARN" not in quiet.out
    wide = command("train", *TINY, "profile=smoke", "model.init_std=3")
    assert "WARN  first loss" in wide.out


def test_a_run_that_does_not_fit_into_memory_is_refused(
    command, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda _: 100_000_000)
    result = command("train", *TINY, "profile=smoke")
    assert result.code == 2 and result.err.count("\n") == 1
    assert re.search(r"needs about [\d.]+ GB of memory, but 0.1 GB are available", result.err)
    assert not [name for name in files_below(tmp_path) if name.startswith("runs")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["model=gpt_16m", "tokenizer=gpt2", "data.batch_size=2", "data.batching=random"],
        ["model=gpt2_4layer", "tokenizer=gpt2", "data.batch_size=2"],
        ["model=toy", "model.d_model=512", "model.n_layer=6", "data.batch_size=32"],
    ],
)
def test_the_memory_estimate_is_near_the_measured_peak(
    tmp_path: Path, arguments: list[str]
) -> None:
    """Within a fifth of the process's largest resident size, on a CPU."""
    script = (
        "import sys\n"
        "from gptlab.training import preflight\n"
        "real = preflight.estimate_memory\n"
        "def estimate(*a):\n"
        "    size = real(*a)\n"
        "    print('ESTIMATE', size)\n"
        "    return size\n"
        "preflight.estimate_memory = estimate\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "import train; train.main()\n"
        "from gptlab.utils.system import peak_memory\n"
        "print('PEAK', peak_memory())\n"
    )
    size = ["data.max_samples=300", "trainer.max_steps=4", "trainer.eval_every=0"]
    small = [*size, "trainer.sample_every=0", "logger=none", "data.final_tokens=200"]
    typed = [sys.executable, "-c", script, *arguments, *small]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        typed, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    sizes = dict(re.findall(r"(ESTIMATE|PEAK) (\d+)", done.stdout))
    assert int(sizes["ESTIMATE"]) == pytest.approx(int(sizes["PEAK"]), rel=0.2)
