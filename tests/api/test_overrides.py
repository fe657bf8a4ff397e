"""Python values arrive in a configuration exactly as they are."""

import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.api.overrides import make_overrides
from gptlab.config.cli import compose_config, composed_config
from gptlab.config.schema import TrainConfig
from gptlab.utils.errors import UserError


def compose(*typed: str, **keys: Any) -> TrainConfig:
    with composed_config("train", make_overrides("train", typed, keys).arguments) as config:
        return config


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("null")
@example("[a,b]")
@example("'quoted', a=b ${c} {d}\n\\")
def test_any_text_arrives_unchanged(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for value in (text, [text, text]):
        (argument,) = make_overrides("train", (), {"data.path": value}).arguments
        parsed = OverridesParser.create().parse_override(argument).value()
        assert OmegaConf.to_container(OmegaConf.create({"x": parsed}), resolve=True) == {"x": value}


CALL: dict[str, Any] = {
    "seed": np.int64(3),
    "num_samples": signal.SIGINT,
    "prompt": 'it\'s "quoted", a=b ${c} {d}\ntwo lines',
    "name": "null",
    "model": {"n_layer": 2, "d_ff": None, "tied_head": False, "position": "rotary"},
    "data": "text",
    "data.path": [Path("a b.txt"), "it's.txt"],
    "optim": {"lr": np.float32(0.25), "betas": (0.9, 1e-9)},
    "trainer": {"extra": {"max_time": "00:01:00:00"}},
    "callbacks": {"mine": {"_target_": "some.Class", "patience": 3}},
}


def test_each_kind_of_value_arrives_as_it_is() -> None:
    config = compose("trainer.max_steps=7", **CALL)
    assert (config.seed, config.num_samples) == (3, 2)
    assert (config.prompt, config.name) == (CALL["prompt"], "null")
    assert (config.model.n_layer, config.model.d_ff, config.model.tied_head) == (2, None, False)
    assert config.data.source == "text" and config.data.path == ["a b.txt", "it's.txt"]
    assert (config.optim.lr, config.optim.betas) == (0.25, [0.9, 1e-9])
    assert config.trainer.max_steps == 7
    assert config.trainer.extra == {"max_time": "00:01:00:00"}
    assert config.callbacks == {"mine": {"_target_": "some.Class", "patience": 3}}


def test_the_stored_command_repeats_the_call() -> None:
    call = CALL | {"name": "a name", "data.path": "it's, a file.txt"}  # `name=null` means none
    typed = shlex.split(make_overrides("train", ("trainer.max_steps=7",), call).command)
    arguments = typed[typed.index("trainer.max_steps=7") :]
    assert compose_config("train", arguments) == compose("trainer.max_steps=7", **call)


def test_choices_of_another_folder_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("n_layer: 3", encoding="utf-8")
    searchpath = {"hydra.searchpath": [tmp_path]}
    assert compose(model="mine", **searchpath).model.n_layer == 3


@pytest.mark.parametrize("argument", ["-m", "--cfg", "foo", "--config-dir=x", 3, "~model"])
def test_options_are_refused(argument) -> None:
    with pytest.raises(UserError) as caught:
        make_overrides("train", (argument,), {})
    assert str(caught.value).startswith(f"{argument}: ")


def test_an_unusable_value_is_refused_with_its_key() -> None:
    with pytest.raises(UserError, match=r"^model.n_layer: set is not"):
        compose(model={"n_layer": {2}})
