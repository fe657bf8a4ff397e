"""The benchmark: it measures what it says, in turns."""

import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch

from gptlab.bench import __main__ as bench
from gptlab.bench import apart, loops
from gptlab.bench.pairs import take_turns
from gptlab.config import ModelConfig
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

    timings = take_turns({"a": contender("a", 1.0), "b": contender("b", 3.0)}, 3)
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
    assert loops.through_gptlab([*bench.NOTHING, *bench.QUIET], 3) > 0


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
    source, target = torch.randint(50, (2, 3, 8))
    made = [GPT(config), apart.transformers(config)]
    if importlib.util.find_spec("litgpt"):
        made.append(apart.litgpt(config))
    for net in made:
        nats = net(source, target).item()
        assert nats == pytest.approx(24 * math.log(50), rel=0.05)
    assert len({count_parameters(net) for net in made[:2]}) == 1
    arguments = [*bench.NOTHING, *bench.QUIET]
    for name in ("plain loop", "transformers", "gptlab, trainer.compile=false"):
        seconds, gigabytes = apart.measure(name, arguments)
        assert 0 < seconds < 10 and 0.1 < gigabytes < 10


def test_a_plain_script_validates_and_saves_as_often(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = []
    monkeypatch.setattr(apart.torch, "save", lambda *arguments: saved.append(arguments))
    often = ["trainer.max_steps=6", "trainer.eval_every=2", "data.valid_tokens=64"]
    assert apart.whole_script([*bench.NOTHING, *bench.QUIET, *often]) > 0
    assert len(saved) == 3
