"""The benchmark: it measures what it says, in turns."""

import importlib.util
import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptlab.bench import __main__ as bench
from gptlab.bench import baselines, generation, isolated, roofline
from gptlab.bench.timing import time_in_pairs
from gptlab.config.schema import ModelConfig, SamplingConfig
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT, count_parameters
from tests.conftest import files_below


def test_contenders_take_turns_and_ratios_are_of_the_same_round() -> None:
    order: list[str] = []
    slow = itertools.count(1)  # the machine gets slower and slower

    def contender(name: str, times: float):
        def work() -> float:
            order.append(name)
            return times * (1 + next(slow) // 2)

        return work

    timings = time_in_pairs({"a": contender("a", 1.0), "b": contender("b", 3.0)}, 3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert timings[0].ratios == [1.0, 1.0, 1.0]
    for timing in timings:
        its = zip(timing.seconds, timings[0].seconds, strict=True)
        assert timing.ratios == [mine / first for mine, first in its]
    assert "× 1.00" in timings[0].line()


def test_the_loops_train_the_same_model_on_the_same_shapes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = bench.bare_loops(bench.NOTHING)
    shapes = set()
    for bare in made.values():
        source, target = bare.get(0)
        shapes.add((source.shape, target.shape, sum(p.numel() for p in bare.net.parameters())))
        before = bare.net.head.weight.detach().clone()
        assert bare.run(2) > 0 and bare.done == 2
        assert not before.equal(bare.net.head.weight)
    assert len(shapes) == 1
    assert baselines.through_gptlab([*bench.NOTHING, *bench.QUIET], 3) > 0


def test_a_part_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "STEPS", 2)
    monkeypatch.setattr("sys.argv", ["bench", "overhead", "--rounds", "1"])
    bench.main()
    out = capsys.readouterr().out
    assert "a step costs" in out and out.count("×") == 2
    assert Path.cwd() == tmp_path and not files_below(tmp_path)


def test_a_part_that_is_not_there(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "speed"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 2 and "there is no such part" in capsys.readouterr().err


def test_contenders_apart_are_as_large_as_ours_and_know_as_little(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(n_layer=2, n_head=2, d_model=16, context_length=8, vocab_size=50)
    torch.manual_seed(0)
    source, target = torch.randint(50, (2, 300, 8))
    made = [GPT(config), isolated.transformers(config)]
    if importlib.util.find_spec("litgpt"):
        made.append(isolated.litgpt(config))
    for net in made:
        nats = net(source, target).item()
        assert nats == pytest.approx(2400 * math.log(50), rel=0.05)
    assert len({count_parameters(net) for net in made[:2]}) == 1
    arguments = [*bench.NOTHING, *bench.QUIET]
    for name in ("plain loop", "transformers", "gptlab, trainer.compile=false"):
        seconds, gigabytes = isolated.measure(name, arguments)
        assert 0 < seconds < 10 and 0.1 < gigabytes < 10


def test_a_plain_script_validates_and_saves_as_often(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = []
    monkeypatch.setattr(isolated.torch, "save", lambda *arguments: saved.append(arguments))
    often = ["trainer.max_steps=6", "trainer.eval_every=2", "data.valid_tokens=64"]
    assert isolated.whole_script([*bench.NOTHING, *bench.QUIET, *often]) > 0
    assert len(saved) == 3


def test_the_work_of_a_step_is_six_operations_a_weight_and_token(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["model.n_layer=1", "model.d_model=8", "model.n_head=1", "model.tied_head=false"]
    sizes += ["model.bias=false", "model.head_bias=false", "data.max_samples=200"]
    arguments = [*bench.CHARACTERS, *sizes]
    work = roofline.work_of(arguments)
    assert work.tokens == 16 * 32
    vocabulary = bench.bare_loops(arguments)["bare loop of gptlab's parts"].net.config.vocab_size
    matrices = 8 * 24 + 8 * 8 + 2 * 8 * 32 + 8 * vocabulary
    norms = 3 * 8
    assert work.operations == 6 * (matrices + norms) * work.tokens
    monkeypatch.setattr(roofline, "matrix_products", lambda: 1e9)
    assert roofline.Work(100, 5e8).line(2.0) == "50 tokens/s, 25% of the limit"


def test_all_contenders_write_as_many_tokens(monkeypatch, capsys) -> None:
    small = replace(generation.MODEL, n_layer=1, n_head=2, d_model=16, context_length=40)
    monkeypatch.setattr(generation, "MODEL", small)
    monkeypatch.setattr(generation, "NEW", 6)
    monkeypatch.setattr(generation, "reading", lambda: 1e9)
    for prompts in (1, 2):
        found = generation.contenders(prompts)
        assert len(found) >= 6
        with torch.inference_mode():
            for name, write_all in found.items():
                written = write_all()
                if name.startswith("gptlab"):
                    assert [len(sample.new_tokens) for sample in written] == [6] * prompts
                else:
                    assert written.reshape(prompts, -1).shape[1] == len(generation.PROMPT) + 6
    generation.generation(1)
    assert "tokens/s" in capsys.readouterr().out


def test_transformers_writes_what_we_write(monkeypatch) -> None:
    torch.manual_seed(0)
    small = replace(generation.MODEL, n_layer=2, n_head=2, d_model=16, context_length=40)
    monkeypatch.setattr(generation, "MODEL", replace(small, init_std=0.2))
    net = GPT(generation.MODEL).eval()
    monkeypatch.setattr(generation, "TOP_K", 1)
    with torch.inference_mode():
        theirs = generation.through_transformers(net, torch.float32)(torch.tensor([[5, 6]]), 30)
        plain = generation.without_a_cache(net, torch.tensor([[5, 6]]), 30)
    greedy = SamplingConfig(temperature=0.0)
    tokenizer = GPT2Tokenizer()
    tokenizer.eot = -1
    (mine,) = generate_samples(GenerationRequest(net, tokenizer, [5, 6], greedy, 1, 30))
    assert theirs[0].tolist() == mine.tokens == plain[0].tolist()
