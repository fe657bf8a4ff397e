"""Forward and backward pass as one graph: the same loss, gradients, runs and checkpoints.

A graph takes a C++ compiler ten seconds or more, so that there is one, of runs with all that is
special: dropout, frozen weights, a chunked loss.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import AdamW

from gptlab.config.schema import FinetuneConfig, ModelConfig, OptimConfig, TrainerConfig
from gptlab.data.dataloader import BatchShape
from gptlab.data.sequences import IGNORE_INDEX
from gptlab.model import checkpoint, layers
from gptlab.model.gpt import GPT
from gptlab.model.lora import freeze
from gptlab.model.loss import summed_cross_entropy
from gptlab.training.fast import compiled_step
from gptlab.training.fast.compiled_step import CompiledStep, resolve_compile_mode
from gptlab.training.run_plan import RunPlan
from gptlab.utils.errors import UserError

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)
TINY_CHAR = ModelConfig(
    d_model=64, context_length=32, vocab_size=83, feed_forward="relu", qkv_bias=False,
    tied_head=False, head_bias=True,
)  # fmt: skip
SMALL = ModelConfig(n_layer=1, n_head=2, d_model=16, context_length=16, vocab_size=50)
ROWS = 4
TRAINABLE = ["embedding.*", "*norm.*", "*.feed_forward.*", "*.out.*"]  # not *.qkv
RUN = [
    *(
        "profile=smoke",
        f"data.batch_size={ROWS}",
        "trainer.max_steps=6",
        "model.n_layer=1",
        "model.d_model=16",
    ),
    *("model.dropout=0.1", "trainer.log_every=1", "logger=none", "trainer.sample_every=0"),
    *("trainer.eval_every=0", "trainer.checkpoint_every=3", "optim.schedule=constant"),
    f"finetune.trainable=[{','.join(TRAINABLE)}]",
]
COMPILED_RUN = [*RUN, "trainer.compile=step", "trainer.accumulate_grad_batches=2"]
MAX_LOGITS = 70_000  # the loss of a run's batch is computed in three chunks


@pytest.fixture(autouse=True)
def chunked_loss(monkeypatch) -> None:
    monkeypatch.setattr("gptlab.model.gpt.MAX_LOGITS", MAX_LOGITS)


def make_batch(config: ModelConfig, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, rows, config.context_length)
    source, target = torch.randint(config.vocab_size, shape, generator=generator)
    target[0, -3:] = IGNORE_INDEX
    return source, target


def autograd_step(net: GPT, source: Tensor, target: Tensor, scale: float) -> Tensor:
    nats = summed_cross_entropy(net(source), target)
    (nats * scale).backward()
    return nats.detach()


def take_gradients(net: GPT) -> list[Tensor]:
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad(set_to_none=True)
    return gradients


def assert_same_gradients(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare, relative to the largest gradient."""
    largest = max(float(g.abs().max()) for g in expected)
    for gradient, reference in zip(actual, expected, strict=True):
        assert gradient.stride() == reference.stride()  # fused optimizers rely on the layout
        assert float((gradient - reference).abs().max()) <= tolerance * largest


def assert_equals_autograd(net: GPT, step: CompiledStep, source: Tensor, target: Tensor) -> None:
    """Compare loss, gradients and norm, with the same dropout."""
    torch.manual_seed(1)
    expected_nats, expected = autograd_step(net, source, target, 0.01), take_gradients(net)
    torch.manual_seed(1)
    nats, norm = step(source, target, 0.01)
    torch.testing.assert_close(nats, expected_nats, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm, nn.utils.get_total_norm(expected), rtol=1e-5, atol=0)
    assert_same_gradients(take_gradients(net), expected, 1e-5)


class RunGraph(NamedTuple):
    """A run's net in training mode, and its compiled step."""

    net: GPT
    step: CompiledStep
    library: Path


@pytest.fixture
def run_graph(train_once, monkeypatch) -> RunGraph:
    """A run's graph, from the cache: compiling it again would fail."""
    run = train_once(*COMPILED_RUN).folder
    libraries: list[Path] = []
    load = compiled_step.load_library
    monkeypatch.setattr(
        compiled_step, "load_library", lambda path: libraries.append(path) or load(path)
    )
    monkeypatch.setattr(torch._inductor, "aot_compile", None)
    net = checkpoint.load_checkpoint(run / "checkpoints" / "last.ckpt").net.train()
    freeze(net, FinetuneConfig(trainable=TRAINABLE))
    step = CompiledStep(net)
    step.compile_or_raise(*make_run_batch(net, seed=0))
    return RunGraph(net, step, libraries[0])


def make_run_batch(net: GPT, seed: int) -> tuple[Tensor, Tensor]:
    """Make a batch with the memory layout of the data loader's."""
    rows, _ = make_batch(replace(net.config, context_length=129), ROWS, seed)
    _, target = make_batch(net.config, ROWS, seed + 1)
    return rows[:, :-1], target


@needs_compiler
def test_compiled_loss_and_gradients_equal_autograd(run_graph: RunGraph) -> None:
    net, step, _ = run_graph
    attention = net.blocks[0].attention
    source, target = make_run_batch(net, seed=0)
    assert source.numel() * net.head.out_features > 2 * net.max_logits
    assert net.dropout.p and not attention.qkv.weight.requires_grad
    assert attention.attend is layers.fused_attention  # eager only while traced
    assert step.matches(source) and not step.matches(source[:2])
    for seed in range(3):
        assert_equals_autograd(net, step, *make_run_batch(net, seed))
    once = gradients_of(run_graph)
    torch.manual_seed(5)
    step(source, target, 0.01)
    torch.manual_seed(5)
    step(source, target, 0.01, accumulate=True)
    assert_same_gradients(take_gradients(net), [2 * g for g in once], 1e-6)


def gradients_of(graph: RunGraph, step: CompiledStep | None = None) -> list[Tensor]:
    torch.manual_seed(5)
    (step or graph.step)(*make_run_batch(graph.net, seed=0), 0.01)
    return take_gradients(graph.net)


@needs_compiler
def test_a_graph_is_compiled_once_and_again_if_damaged(
    run_graph: RunGraph, tmp_path: Path, monkeypatch
) -> None:
    """A stub takes the place of the compiler and counts its calls."""
    expected = gradients_of(run_graph)
    compiled = tmp_path / "compiled.so"
    shutil.copyfile(run_graph.library, compiled)
    compilations = []
    monkeypatch.setattr(
        torch._inductor, "aot_compile", lambda *_: compilations.append(1) or str(compiled)
    )

    def assert_recompiled_step_is_the_same(cache: Path) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        again = CompiledStep(run_graph.net)
        again.compile_or_raise(*make_run_batch(run_graph.net, seed=0))
        assert all(map(torch.equal, gradients_of(run_graph, again), expected))

    assert_recompiled_step_is_the_same(tmp_path / "empty")
    (cached,) = (tmp_path / "empty" / "gptlab").iterdir()
    assert len(compilations) == 1 and cached.name == run_graph.library.name
    assert_recompiled_step_is_the_same(tmp_path / "empty")
    assert len(compilations) == 1
    # Elsewhere: a process knows a loaded library by its path, and would not read it again.
    damaged = tmp_path / "damaged" / "gptlab" / cached.name
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged", encoding="utf-8")
    assert_recompiled_step_is_the_same(tmp_path / "damaged")
    assert len(compilations) == 2 and damaged.read_bytes() == compiled.read_bytes()


@pytest.mark.fast
def test_no_weights_are_constants_of_the_graph(monkeypatch) -> None:
    """Frozen weights and tables are inputs too."""
    net = GPT(replace(SMALL, position="rotary")).train()
    net.blocks[0].attention.qkv.weight.requires_grad_(False)
    traces = []
    monkeypatch.setattr(compiled_step, "load_or_compile", lambda trace, _: traces.append(trace))
    CompiledStep(net).compile_or_raise(*make_batch(SMALL, 2, seed=0))
    constants = [*traces[0].named_buffers(), *traces[0].named_parameters()]
    assert all(constant.numel() == 1 for _, constant in constants)


@pytest.mark.fast
def test_the_cache_key_depends_on_everything_that_is_computed() -> None:
    def key(function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> str:
        argument = torch.zeros(3, dtype=dtype)
        return compiled_step.graph_key(make_fx(function)(argument), [argument])

    table = torch.arange(3.0)
    keys = {
        key(lambda x: x + 1),
        key(lambda x: x + 2),
        key(lambda x: x * 1),
        key(lambda x: x + 1, torch.float64),
        key(lambda x: x + table),
        key(lambda x: x + 2 * table),
        key(lambda x: x + (table + 1)),
    }
    assert len(keys) == 7 and key(lambda x: 1 + x) in keys
    with torch._inductor.config.patch({"cpp.simdlen": 0}):
        assert key(lambda x: x + 1) not in keys


@pytest.mark.fast
def test_attention_is_eager_in_the_graph_on_short_windows_without_dropout() -> None:
    """The fused kernel draws its own random numbers for dropout."""
    net = GPT(SMALL)
    attend = net.blocks[0].attention.attend
    for config, tokens, unchanged in (
        (SMALL, 16, False),
        (SMALL, compiled_step.EAGER_ATTENTION_LIMIT + 1, True),
        (replace(SMALL, attention_dropout=0.1), 16, True),
    ):
        net.config = config
        with compiled_step.compiler_friendly(net, tokens):
            assert (net.blocks[0].attention.attend is attend) == unchanged
        assert net.blocks[0].attention.attend is attend


def last_checkpoint(run: Path) -> dict:
    return checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("train/loss")
    return [float(value) for line in lines[1:] if (value := line.split(",")[column])]


@needs_compiler
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_compiled_run_has_the_losses_of_an_eager_run(train_once, micro_batches: int) -> None:
    accumulate = f"trainer.accumulate_grad_batches={micro_batches}"
    plain = train_once(*RUN, "trainer.compile=false", accumulate)
    compiled = train_once(*RUN, "trainer.compile=step", accumulate)
    assert "compil" not in plain.result.out + plain.result.err
    assert "compiled step" in compiled.result.out
    assert losses(compiled.folder) == pytest.approx(losses(plain.folder), rel=1e-5)
    assert len(losses(compiled.folder)) == 6
    expected, actual = last_checkpoint(plain.folder), last_checkpoint(compiled.folder)
    for name, weight in expected["state_dict"].items():
        torch.testing.assert_close(actual["state_dict"][name], weight, rtol=1e-3, atol=1e-4)
    states = [c["optimizer_states"][0]["state"][0] for c in (expected, actual)]
    assert states[0].keys() == states[1].keys() and states[0]["step"] == states[1]["step"] == 6


@needs_compiler
def test_a_compiled_run_resumes_bit_for_bit(train_once, command, tmp_path: Path) -> None:
    expected = last_checkpoint(train_once(*COMPILED_RUN).folder)["state_dict"]
    run = train_once(*COMPILED_RUN, "trainer.max_steps=3").copy(tmp_path)
    result = command("train", f"resume={run}", "trainer.max_steps=6")
    assert result.code == 0 and "compiled step" in result.out, result.err
    actual = last_checkpoint(run)["state_dict"]
    assert all(torch.equal(weight, actual[name]) for name, weight in expected.items())


@pytest.mark.parametrize("mode", ["model", "step"])
def test_without_a_compiler_training_continues_after_one_line(
    train_once, tmp_path: Path, monkeypatch, mode: str
) -> None:
    torch._inductor.cpp_builder.cpp_compiler_search.cache_clear()
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no_such_compiler"),)}):
        run = train_once(*RUN, f"trainer.compile={mode}", "name=no_compiler")
    lines = [line for line in run.result.err.splitlines() if "not compiled" in line]
    assert len(lines) == 1 and "install a C++ compiler" in lines[0]
    assert len(losses(run.folder)) == 6 and "compiled" not in run.result.out
    assert "Traceback" not in run.result.err


def make_plan(**changes: object) -> RunPlan:
    plan = RunPlan(
        model=TINY_CHAR, optim=OptimConfig(), shape=BatchShape(16, 1), steps=10_000, eval_every=0,
        checkpoint_every=0, sample_every=0, row_tokens=32, sequences_per_epoch=1, accelerator="cpu",
        precision="32-true",
    )  # fmt: skip
    return replace(plan, **changes)


@pytest.mark.fast
def test_auto_compiles_if_the_planned_steps_pay_for_it() -> None:
    net = GPT(TINY_CHAR)

    def mode(trainer: TrainerConfig | None = None, **changes: object) -> str:
        return resolve_compile_mode(trainer or TrainerConfig(), make_plan(**changes), net)

    assert mode() == "step"
    assert mode(steps=1000) == "false"
    assert mode(steps=1000, shape=BatchShape(16, 10)) == "step"
    assert mode(steps=1000, row_tokens=32_000) == "step"
    assert mode(accelerator="cuda") == "false"
    assert mode(model=replace(TINY_CHAR, feed_forward="package.module:Name")) == "false"
    plan = make_plan(accelerator="mps")
    assert resolve_compile_mode(TrainerConfig(compile="model"), plan, net) == "false"
    assert "not compiled" in plan.notes[0]
    assert mode(TrainerConfig(devices=2), shape=BatchShape(16, 1, 2)) == "false"
    for name in ("false", "model", "step"):
        assert mode(TrainerConfig(compile=name), steps=10) == name
    assert mode(TrainerConfig(compile="False")) == "false"
    with pytest.raises(UserError, match=r"trainer\.compile=step"):
        mode(TrainerConfig(compile="step", devices=2))


def test_an_unknown_or_unavailable_mode_is_refused(command) -> None:
    for settings, message in (
        (["trainer.compile=stpe"], "did you mean 'step'"),
        (["trainer.compile=step", "trainer.precision=bf16-true"], "one process on a CPU"),
    ):
        result = command("train", "profile=smoke", *settings)
        assert (result.code, result.err.count("\n")) == (2, 1) and message in result.err


@pytest.mark.slow
@needs_compiler
def test_from_each_of_twenty_states_one_step_is_the_same() -> None:
    """In float32 any two runs drift apart, so each comparison starts from the same state."""
    torch.manual_seed(0)
    net = GPT(TINY_CHAR).train()
    compiled = CompiledStep(net)
    compiled.compile_or_raise(*make_batch(TINY_CHAR, 16, seed=0))
    optimizer = AdamW(net.parameters(), lr=1e-3, fused=True)
    for step in range(200):
        source, target = make_batch(TINY_CHAR, 16, seed=step)
        count = int((target != IGNORE_INDEX).sum())
        nats = autograd_step(net, source, target, 1 / count)
        gradients = take_gradients(net)
        if step % 10 == 0:
            compiled_nats, _ = compiled(source, target, 1 / count)
            assert abs(float(compiled_nats - nats)) / count <= 1e-6
            assert_same_gradients(take_gradients(net), gradients, 1e-5)
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.slow
@needs_compiler
def test_three_hundred_steps_agree_in_float64() -> None:
    results = []
    for use_graph in (False, True):
        torch.manual_seed(0)
        net = GPT(TINY_CHAR).double().train()
        compiled = CompiledStep(net)
        optimizer = AdamW(net.parameters(), lr=1e-3, fused=True)
        if use_graph:
            compiled.compile_or_raise(*make_batch(TINY_CHAR, 16, seed=0))
        losses = []
        for step in range(300):
            source, target = make_batch(TINY_CHAR, 16, seed=step % 50)
            if use_graph:
                nats, _ = compiled(source, target, 1 / 509)
            else:
                net.zero_grad(set_to_none=True)
                nats = autograd_step(net, source, target, 1 / 509)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            losses.append(float(nats) / 509)
        results.append((losses, [p.detach().clone() for p in net.parameters()]))
    (losses, weights), (graph_losses, graph_weights) = results
    assert losses[-1] < losses[0] - 0.1 and all(map(math.isfinite, losses))
    assert max(abs(a - b) for a, b in zip(losses, graph_losses, strict=True)) <= 1e-8
    for weight, reference in zip(graph_weights, weights, strict=True):
        assert float((weight - reference).abs().max()) <= 1e-8
