"""Forward and backward pass as one graph: the same loss, gradients, runs and checkpoints."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import AdamW

from gptlab.config.schema import ModelConfig, TrainerConfig
from gptlab.data.dataloader import BatchShape
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model import checkpoint
from gptlab.model.gpt import GPT
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.fast import compiled_step
from gptlab.training.fast import compiled_step as graphs
from gptlab.training.fast.compiled_step import CompiledStep, resolve_compile_mode
from gptlab.training.run_plan import RunPlan
from gptlab.utils.errors import UserError
from tests.faults.compare import only

compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)
TINY_CHAR = ModelConfig(
    d_model=64, context_length=32, vocab_size=83, feed_forward="relu", qkv_bias=False,
    tied_head=False, head_bias=True,
)  # fmt: skip
SMALL = ModelConfig(n_layer=1, n_head=2, d_model=16, context_length=16, vocab_size=50)


def batch(config: ModelConfig, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    shape = (2, rows, config.context_length)
    source, target = torch.randint(config.vocab_size, shape, generator=chance)
    target[0, -3:] = IGNORE_INDEX
    return source, target


def plainly(net: GPT, source: Tensor, target: Tensor, scale: float) -> Tensor:
    nats = summed_cross_entropy(net(source), target)
    (nats * scale).backward()
    return nats.detach()


def gradients(net: GPT) -> list[Tensor]:
    found = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(found: list[Tensor], wanted: list[Tensor], within: float) -> None:
    largest = max(float(g.abs().max()) for g in wanted)
    for mine, right in zip(found, wanted, strict=True):
        assert mine.stride() == right.stride()  # fused optimizers take memory as it lies
        assert float((mine - right).abs().max()) <= within * largest


@compiler
def test_loss_and_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    net = GPT(replace(SMALL, dropout=0.2)).train()
    net.blocks[0].attention.qkv.weight.requires_grad_(False)
    graph = CompiledStep(net)
    graph.compile_or_raise(*batch(SMALL, 4, seed=0))
    attend = net.blocks[0].attention.attend
    for seed in range(3):
        source, target = batch(SMALL, 4, seed)
        torch.manual_seed(seed)
        wanted_nats, wanted = plainly(net, source, target, 0.01), gradients(net)
        torch.manual_seed(seed)
        nats, norm = graph(source, target, 0.01, add=False)
        found = gradients(net)
        torch.testing.assert_close(nats, wanted_nats, rtol=1e-6, atol=0)
        assert_same_gradients(found, wanted, 1e-5)
        torch.testing.assert_close(norm, nn.utils.get_total_norm(wanted), rtol=1e-5, atol=0)
    assert net.blocks[0].attention.attend is attend  # written out while it was traced, no longer
    torch.manual_seed(5)
    graph(source, target, 0.01, add=False)
    once = [p.grad.clone() for p in graph.parameters]
    torch.manual_seed(5)
    graph(source, target, 0.01, add=True)
    assert_same_gradients([p.grad for p in graph.parameters], [2 * g for g in once], 1e-6)
    net.max_logits = 50 * 10  # the loss in chunks
    chunked = CompiledStep(net)
    chunked.compile_or_raise(source, target)
    torch.manual_seed(5)
    chunked(source, target, 0.01, add=False)
    assert_same_gradients([p.grad for p in graph.parameters], once, 1e-6)
    assert graph.fits(source) and not graph.fits(source[:2])


@compiler
def test_a_graph_is_compiled_once_on_a_machine(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    source, target = batch(SMALL, 2, seed=0)

    def found(config: ModelConfig = SMALL) -> list[Tensor]:
        torch.manual_seed(0)
        graph = CompiledStep(GPT(config).train())
        graph.compile_or_raise(source, target)
        graph(source, target, 0.01, add=False)
        return [p.grad for p in graph.parameters]

    first = found()
    (kept,) = (tmp_path / "gptlab").iterdir()
    compilations = []
    monkeypatch.setattr(
        torch._inductor, "aot_compile", lambda *_: compilations.append(1) or str(kept)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, found(), strict=True))
    assert not compilations
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    spoilt = tmp_path / "other" / "gptlab" / kept.name
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text("no library")
    assert all(torch.equal(a, b) for a, b in zip(first, found(), strict=True))
    assert len(compilations) == 1 and spoilt.read_bytes() == kept.read_bytes()


def test_no_weights_are_written_into_the_machine_code(monkeypatch) -> None:
    net = GPT(replace(SMALL, position="rotary")).train()
    net.blocks[0].attention.qkv.weight.requires_grad_(False)
    found = []
    monkeypatch.setattr(graphs, "compiled", lambda traced, inputs: found.append(traced))
    CompiledStep(net).compile_or_raise(*batch(SMALL, 2, seed=0))
    constants = [*found[0].named_buffers(), *found[0].named_parameters()]
    assert all(constant.numel() == 1 for _, constant in constants)


def test_a_graph_is_known_by_all_that_it_computes() -> None:
    def key(net: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> str:
        given = torch.zeros(3, dtype=dtype)
        return compiled_step.graph_key(make_fx(net)(given), [given])

    table = torch.arange(3.0)
    known = {
        key(lambda x: x + 1),
        key(lambda x: x + 2),
        key(lambda x: x * 1),
        key(lambda x: x + 1, torch.float64),
        key(lambda x: x + table),
        key(lambda x: x + 2 * table),
        key(lambda x: x + (table + 1)),
    }
    assert len(known) == 7 and key(lambda x: 1 + x) in known
    with torch._inductor.config.patch({"cpp.simdlen": 0}):
        assert key(lambda x: x + 1) not in known


def test_no_draw_of_attention_dropout_is_another_for_the_graph() -> None:
    net = GPT(SMALL)
    before = net.blocks[0].attention.attend
    for config, tokens, same in (
        (SMALL, 16, False),
        (SMALL, graphs.EAGER_ATTENTION_LIMIT + 1, True),
        (replace(SMALL, attention_dropout=0.1), 16, True),
    ):
        net.config = config
        with graphs.eager_attention_and_loss(net, tokens):
            assert (net.blocks[0].attention.attend is before) == same
        assert net.blocks[0].attention.attend is before


@pytest.fixture
def runs(command, tmp_path: Path):
    """Runs of a very small model, by the name of trainer.compile."""

    def run(name: str, *more: str) -> Path:
        result = command(
            "train", "profile=smoke", "trainer.max_steps=6", "model.n_layer=1", "model.d_model=16",
            "model.dropout=0.1", "trainer.log_every=1", "logger=none", "trainer.sample_every=0",
            "trainer.eval_every=0", "trainer.checkpoint_every=3", "optim.schedule=constant",
            f"run_root={name}", *more,
        )  # fmt: skip
        assert result.code == 0, result.err
        run.said = result
        return only(tmp_path / name)

    return run


def last(run: Path) -> dict:
    return checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    return [float(value) for line in lines[1:] if (value := line.split(",")[column])]


@compiler
def test_a_run_by_the_graph_is_the_run_without(runs, command) -> None:
    for accumulate in (1, 2):
        more = f"trainer.accumulate_grad_batches={accumulate}"
        plain = runs(f"plain{accumulate}", "trainer.compile=false", more)
        assert "compil" not in runs.said.out + runs.said.err
        graph = runs(f"graph{accumulate}", "trainer.compile=step", more)
        assert "compiled as one graph" in runs.said.out
        assert losses(graph) == pytest.approx(losses(plain), rel=1e-5)
        assert len(losses(graph)) == 6
        wanted, found = last(plain), last(graph)
        for name, weight in wanted["state_dict"].items():
            torch.testing.assert_close(found["state_dict"][name], weight, rtol=1e-3, atol=1e-4)
        state, its = (c["optimizer_states"][0]["state"][0] for c in (wanted, found))
        assert state.keys() == its.keys() and state["step"] == its["step"] == 6
    again = runs("again", "trainer.compile=step", more)
    found = last(graph)["state_dict"]
    assert all(torch.equal(w, found[name]) for name, w in last(again)["state_dict"].items())


@compiler
def test_a_run_by_the_graph_goes_on_bit_by_bit(runs, command, tmp_path: Path) -> None:
    whole = last(runs("whole", "trainer.compile=step"))["state_dict"]
    half = runs("half", "trainer.compile=step", "trainer.max_steps=3")
    result = command("train", f"resume={half}", "trainer.max_steps=6")
    assert result.code == 0 and "compiled as one graph" in result.out, result.err
    found = last(half)["state_dict"]
    assert all(torch.equal(weight, found[name]) for name, weight in whole.items())


def test_without_a_compiler_a_line_is_said_and_training_goes_on(
    runs, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no_such_compiler"),)}):
        run = runs("none", "trainer.compile=step")
    told = [line for line in runs.said.err.splitlines() if "is not compiled" in line]
    assert len(told) == 1 and len(losses(run)) == 6
    assert "Traceback" not in runs.said.err


def a_plan(**changes: object) -> RunPlan:
    plan = RunPlan(
        model=TINY_CHAR, optim=None, shape=BatchShape(16, 1), steps=10_000, eval_every=0,
        checkpoint_every=0, sample_every=0, row_tokens=32, sequences_per_epoch=1, accelerator="cpu",
        precision="32-true",
    )  # fmt: skip
    return replace(plan, **changes)


def test_auto_compiles_where_the_planned_steps_pay_for_it() -> None:
    net, trainer = GPT(TINY_CHAR), TrainerConfig()
    assert resolve_compile_mode(trainer, a_plan(), net) == "step"
    assert resolve_compile_mode(trainer, a_plan(steps=1000), net) == "false"
    assert (
        resolve_compile_mode(trainer, a_plan(steps=1000, shape=BatchShape(16, 10)), net) == "step"
    )
    assert resolve_compile_mode(trainer, a_plan(steps=1000, row_tokens=32_000), net) == "step"
    assert resolve_compile_mode(trainer, a_plan(accelerator="cuda"), net) == "false"
    assert (
        resolve_compile_mode(TrainerConfig(devices=2), a_plan(shape=BatchShape(16, 1, 2)), net)
        == "false"
    )
    for mode in ("false", "model", "step"):
        assert resolve_compile_mode(TrainerConfig(compile=mode), a_plan(steps=10), net) == mode
    assert resolve_compile_mode(TrainerConfig(compile="False"), a_plan(), net) == "false"
    with pytest.raises(UserError, match="trainer\\.compile=step"):
        resolve_compile_mode(TrainerConfig(compile="step", devices=2), a_plan(), net)


def test_a_wrong_mode_is_refused(command) -> None:
    for settings, word in (
        (["trainer.compile=stpe"], "did you mean 'step'"),
        (["trainer.compile=step", "trainer.precision=bf16-true"], "one process on a CPU"),
    ):
        result = command("train", "profile=smoke", *settings)
        assert (result.code, result.err.count("\n")) == (2, 1) and word in result.err


@pytest.mark.slow
@compiler
def test_from_each_of_twenty_states_one_step_is_the_same() -> None:
    """In float32 two runs drift apart, whatever they are; so each state begins anew."""
    torch.manual_seed(0)
    net = GPT(TINY_CHAR).train()
    graph = CompiledStep(net)
    graph.compile_or_raise(*batch(TINY_CHAR, 16, seed=0))
    optimizer = AdamW(net.parameters(), lr=1e-3, fused=True)
    for step in range(200):
        source, target = batch(TINY_CHAR, 16, seed=step)
        count = int((target != IGNORE_INDEX).sum())
        nats = plainly(net, source, target, 1 / count)
        wanted = gradients(net)
        if step % 10 == 0:
            found_nats, _ = graph(source, target, 1 / count, add=False)
            assert abs(float(found_nats - nats)) / count <= 1e-6
            assert_same_gradients(gradients(net), wanted, 1e-5)
        for parameter, gradient in zip(net.parameters(), wanted, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.slow
@compiler
def test_three_hundred_steps_agree_in_float64() -> None:
    ends = []
    for by_graph in (False, True):
        torch.manual_seed(0)
        net = GPT(TINY_CHAR).double().train()
        graph = CompiledStep(net)
        optimizer = AdamW(net.parameters(), lr=1e-3, fused=True)
        if by_graph:
            graph.compile_or_raise(*batch(TINY_CHAR, 16, seed=0))
        found = []
        for step in range(300):
            source, target = batch(TINY_CHAR, 16, seed=step % 50)
            if by_graph:
                nats, _ = graph(source, target, 1 / 509, add=False)
            else:
                net.zero_grad(set_to_none=True)
                nats = plainly(net, source, target, 1 / 509)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            found.append(float(nats) / 509)
        ends.append((found, [p.detach().clone() for p in net.parameters()]))
    (plain, weights), (graphed, its) = ends
    assert plain[-1] < plain[0] - 0.1 and all(map(math.isfinite, plain))
    assert max(abs(a - b) for a, b in zip(plain, graphed, strict=True)) <= 1e-8
    for mine, right in zip(its, weights, strict=True):
        assert float((mine - right).abs().max()) <= 1e-8
