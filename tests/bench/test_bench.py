"""The benchmark measures what it says, in turns."""

import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptlab.bench import generation, isolated, reference_loops, roofline
from gptlab.bench import parts as bench
from gptlab.bench.__main__ import main
from gptlab.bench.timing import time_in_turns
from gptlab.config.schema import ModelConfig, SamplingConfig
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT, count_parameters
from tests.conftest import files_below

SMALL_CORPUS = ["data.max_samples=200"]
ARGUMENTS = [*bench.ALMOST_NO_MODEL, *bench.NO_EXTRAS, *SMALL_CORPUS]


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def shared_corpus(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder whose corpora the tests of this file share."""
    monkeypatch.chdir(corpus_folder)
    yield


@pytest.mark.fast
def test_contenders_take_turns_and_ratios_are_within_a_round() -> None:
    order: list[str] = []
    slowdown = itertools.count(1)  # the machine gets slower and slower

    def contender(name: str, factor: float):
        def work() -> float:
            order.append(name)
            return factor * (1 + next(slowdown) // 2)

        return work

    timings = time_in_turns({"a": contender("a", 1.0), "b": contender("b", 3.0)}, 3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert timings[0].ratios == [1.0, 1.0, 1.0]
    for timing in timings:
        pairs = zip(timing.seconds, timings[0].seconds, strict=True)
        assert timing.ratios == [seconds / reference for seconds, reference in pairs]
    assert "× 1.00" in timings[0].describe()


def test_bare_loops_train_the_same_model_on_the_same_shapes(shared_corpus: None) -> None:
    shapes = set()
    for loop in bench.make_loops(ARGUMENTS).values():
        source, target = loop.get_batch(0)
        shapes.add((source.shape, target.shape, count_parameters(loop.net)))
        before = loop.net.head.weight.detach().clone()
        assert loop.run(2) > 0 and loop.steps_done == 2
        assert not before.equal(loop.net.head.weight)
    assert len(shapes) == 1


def test_a_part_prints_its_ratio_and_leaves_no_files(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "STEPS", 2)
    monkeypatch.setattr(bench, "ALMOST_NO_MODEL", [*bench.ALMOST_NO_MODEL, *SMALL_CORPUS])
    monkeypatch.setattr("sys.argv", ["bench", "overhead", "--rounds", "1"])
    main()
    out = capsys.readouterr().out
    assert "a step costs" in out and out.count("×") == 2
    assert Path.cwd() == tmp_path and not files_below(tmp_path)


def test_an_unknown_part_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "speed"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "invalid choice: speed" in capsys.readouterr().err


def test_external_models_have_gptlabs_size_and_start_at_chance() -> None:
    config = ModelConfig(n_layer=2, n_head=2, d_model=16, context_length=8, vocab_size=50)
    torch.manual_seed(0)
    source, target = torch.randint(50, (2, 300, 8))
    nets = [GPT(config), reference_loops.transformers_model(config)]
    if importlib.util.find_spec("litgpt"):
        nets.append(reference_loops.litgpt_model(config))
    for net in nets:
        nats = net(source, target).item()
        assert nats == pytest.approx(2400 * math.log(50), rel=0.05)
    assert len({count_parameters(net) for net in nets[:2]}) == 1


@pytest.mark.parametrize(
    "name", [isolated.NANOGPT, "transformers", "gptlab, trainer.compile=false"]
)
def test_contenders_report_time_and_memory(shared_corpus: None, name: str) -> None:
    seconds, gigabytes = isolated.measure_contender(name, ARGUMENTS)
    assert 0 < seconds < 10 and 0.1 < gigabytes < 10


def test_the_plain_script_validates_and_saves_as_often_as_gptlab(
    shared_corpus: None, monkeypatch
) -> None:
    saved, scored = [], []
    monkeypatch.setattr(isolated.torch, "save", lambda *arguments: saved.append(arguments))
    forward = GPT.forward

    def count_validation(net: GPT, *arguments):
        scored.append(not torch.is_grad_enabled())
        return forward(net, *arguments)

    monkeypatch.setattr(GPT, "forward", count_validation)
    often = ["trainer.max_steps=6", "trainer.eval_every=2", "data.valid_tokens=64"]
    assert isolated.time_plain_script([*ARGUMENTS, *often]) > 0
    assert len(saved) == 3 and scored.count(False) == 6 and scored.count(True) >= 3


def test_a_step_costs_six_operations_per_weight_and_token(shared_corpus: None, monkeypatch):
    sizes = ["model.n_layer=1", "model.d_model=8", "model.n_head=1", "model.tied_head=false"]
    sizes += ["model.bias=false", "model.head_bias=false"]
    arguments = [*bench.TINY_CHAR, *sizes, *SMALL_CORPUS]
    cost = roofline.step_cost(arguments)
    assert cost.tokens == 16 * 32
    vocabulary = bench.make_loops(arguments)[bench.BARE].net.config.vocab_size
    matrices = 8 * 24 + 8 * 8 + 2 * 8 * 32 + 8 * vocabulary
    norms = 3 * 8
    assert cost.operations == 6 * (matrices + norms) * cost.tokens
    monkeypatch.setattr(roofline, "matmul_rate", lambda: 1e9)
    assert roofline.StepCost(100, 5e8).describe(2.0) == "50 tokens/s, 25% of the limit"


def test_the_limits_of_the_machine_are_plausible() -> None:
    """Bytes and operations per second, measured on small inputs that may fit into a cache."""
    assert 1e8 < roofline.memory_bandwidth(rounds=1, count=1 << 22) < 5e12
    assert 1e8 < roofline.matmul_rate(rounds=1, size=256) < 1e14


def test_the_generation_limit_is_measured_in_real_memory(monkeypatch) -> None:
    devices = []

    def bandwidth() -> float:
        devices.append(torch.empty(1).device.type)  # meta tensors take no time to read
        return 1e9

    monkeypatch.setattr(generation, "memory_bandwidth", bandwidth)
    limit = generation.max_steps_per_second()
    assert devices == ["cpu"]
    with torch.device("meta"):
        weights = sum(p.numel() for p in GPT(generation.MODEL).parameters())
    assert limit == pytest.approx(1e9 / (4 * weights)) and 1 < limit < 100


def test_all_contenders_generate_the_same_number_of_tokens(monkeypatch, capsys) -> None:
    small = replace(generation.MODEL, n_layer=1, n_head=2, d_model=16, context_length=40)
    monkeypatch.setattr(generation, "MODEL", small)
    monkeypatch.setattr(generation, "NEW_TOKENS", 6)
    monkeypatch.setattr(generation, "memory_bandwidth", lambda: 1e9)
    for num_prompts in (1, 2):
        contenders = generation.make_contenders(num_prompts)
        assert len(contenders) >= 6
        with torch.inference_mode():
            for name, generate in contenders.items():
                output = generate()
                if name.startswith("gptlab"):
                    assert [len(sample.new_tokens) for sample in output] == [6] * num_prompts
                else:
                    length = output.reshape(num_prompts, -1).shape[1]
                    assert length == len(generation.PROMPT) + 6
    generation.generation(1)
    assert "% of the limit" in capsys.readouterr().out


def test_transformers_and_the_cacheless_loop_generate_gptlabs_text(monkeypatch) -> None:
    torch.manual_seed(0)
    small = replace(generation.MODEL, n_layer=2, n_head=2, d_model=16, context_length=40)
    monkeypatch.setattr(generation, "MODEL", replace(small, init_std=0.2))
    monkeypatch.setattr(generation, "TOP_K", 1)
    net = GPT(generation.MODEL).eval()
    prompts = torch.tensor([[5, 6]])
    with torch.inference_mode():
        reference = generation.transformers_generator(net, torch.float32)(prompts, 30)
        uncached = generation.nanogpt_generate(net, prompts, 30)
    tokenizer = GPT2Tokenizer()
    tokenizer.eot = -1
    greedy = SamplingConfig(temperature=0.0)
    (sample,) = generate_samples(GenerationRequest(net, tokenizer, [5, 6], greedy, 1, 30))
    assert reference[0].tolist() == sample.tokens == uncached[0].tolist()
