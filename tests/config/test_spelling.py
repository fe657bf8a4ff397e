"""Keys and values as people type them."""

import pytest

from gptlab.api.overrides import make_overrides
from gptlab.config import spelling
from gptlab.config.cli import compose_config
from gptlab.config.keys import keys_of
from gptlab.config.schema import SCHEMAS
from gptlab.config.spelling import complete_key, mend_arguments, mend_override
from gptlab.utils.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_unique_last_part_of_a_key_is_enough(command: str) -> None:
    keys = list(keys_of(SCHEMAS[command]))
    for key in keys:
        last = key.rpartition(".")[2]
        same = [other for other in keys if other.rpartition(".")[2] == last]
        if len(same) == 1 and last not in ("extra", "model"):  # open; a group elsewhere
            for typed in (last, last.upper(), last.replace("_", "-")):
                assert complete_key(typed, command) == key
        assert complete_key(key, command) == key


def test_a_short_key_that_several_groups_have_is_refused_with_their_names(monkeypatch) -> None:
    assert complete_key("batch_size", "train") == "data.batch_size"
    monkeypatch.setattr(spelling, "SPECIAL_GROUPS", ())
    with pytest.raises(UserError, match=r"batch_size: which one\? Type data.batch_size or hella"):
        complete_key("batch_size", "train")


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        (["lr=1e-3"], "optim.lr", 1e-3),
        (["lr", "=", "1e-3"], "optim.lr", 1e-3),
        (["lr=", "1e-3"], "optim.lr", 1e-3),
        (["lr", "=1e-3"], "optim.lr", 1e-3),
        (["lr = 1e-3"], "optim.lr", 1e-3),
        (["Max-Steps=1e3"], "trainer.max_steps", 1000),
        (["trainer.max_steps=5.0"], "trainer.max_steps", 5),
        (["max_steps=None"], "trainer.max_steps", None),
        (["bias=No"], "model.bias", False),
        (["tied_head=0"], "model.tied_head", False),
        (["from_scratch=yes", "init_from=x"], "from_scratch", True),
        (["schedule=Constant"], "optim.schedule", "constant"),
        (["model=Tiny-Char"], "model.d_model", 64),
        (["'prompt=hi'"], "prompt", "hi"),
        (["'prompt=hi,", "you =", "me'", "seed=3"], "prompt", "hi, you = me"),
        (["prompt= a = b "], "prompt", " a = b "),
        (["name=None"], "name", "None"),
    ],
)
def test_what_has_one_meaning_is_taken(typed: list[str], key: str, value: object) -> None:
    config = compose_config("train", typed)
    for name in key.split("."):
        config = getattr(config, name)
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    ("command", "typed", "line"),
    [
        ("train", ["--max_steps", "100"], "trainer.max_steps=100"),
        ("train", ["--max-steps=100"], "trainer.max_steps=100"),
        ("train", ["-max_steps", "100"], "trainer.max_steps=100"),
        ("train", ["--n_embd=64"], "model.d_model=64"),
        ("train", ["--multrun"], "did you mean '--multirun'"),
        ("generate", ["--prompt", "a cat"], 'prompt="a cat"'),
        ("train", ["max_steps"], "write trainer.max_steps=VALUE"),
        ("train", ["model.n_layer="], "its value is missing, as in model.n_layer=4"),
        ("train", ["model="], "its value is missing; choose from gpt2_12layer"),
        ("train", ["=3"], "the key before = is missing"),
        ("train", ["lr=0,001"], "write optim.lr=0.001, or add -m"),
        ("train", ["max_steps=1,000"], "write trainer.max_steps=1000, or add -m"),
        ("train", ["max_steps=1e"], "must be a whole number"),
        ("train", ["toy_best"], "write experiment=toy_best"),
        ("evaluate", ["perplexity"], "write suite=perplexity"),
        ("evaluate", ["model=toy"], "model: unknown key"),
        ("generate", ["Once upon"], 'write prompt="Once upon"'),
        ("generate", ["prompt=Once", "upon"], 'needs quotes: prompt="Once upon'),
        ("generate", ["max_length=3"], "did you mean 'max_new_tokens'"),
        ("generate", ["temprature=3"], "did you mean 'sampling.temperature'"),
        ("train", ["temprature=3"], "did you mean 'sampling.temperature'"),
        ("train", ["max_step=3"], "did you mean 'trainer.max_steps'"),
    ],
)
def test_anything_else_gets_a_line_that_says_what_to_type(command, typed, line) -> None:
    with pytest.raises(UserError) as error:
        compose_config(command, typed)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_options_of_hydra_and_sweeps_are_left_alone() -> None:
    typed = ["--cfg", "job", "-cd", "my folder", "--package=model", "--resolve", "hydra.verbose=1"]
    assert mend_arguments(typed, "train") == typed
    completion = ["-sc", "query=bash"]
    assert mend_arguments(completion, "train") == completion
    assert mend_arguments(["lr=0,1", "-m"], "train") == ["optim.lr=0,1", "-m"]
    assert mend_override("max_steps=1e2,5", "train", True) == "trainer.max_steps=100,5"
    for argument in ("hydra/launcher=joblib", "+trainer.extra.x=1", "callbacks.a.b=1", "++x=1"):
        assert mend_override(argument, "train") == argument


def test_calls_from_python_take_the_same_keys() -> None:
    arguments = make_overrides("train", ("bias=no",), {"max_steps": 1e3, "lr": 1e-2}).arguments
    assert arguments == ["model.bias=false", "trainer.max_steps=1000", "optim.lr=0.01"]
