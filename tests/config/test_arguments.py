"""Arguments as people type them, in Hydra's grammar."""

from pathlib import Path

import pytest

from gptlab.config.arguments import hydra_argument, hydra_arguments
from gptlab.config.cli import compose_config
from tests.conftest import TINY

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("command", "argument", "value"),
    [
        ("evaluate", "suite=perplexity,text_quality", ["perplexity", "text_quality"]),
        ("evaluate", "suite=perplexity", ["perplexity"]),
        ("evaluate", "suite=[perplexity]", ["perplexity"]),
        ("train", "eval_after=", []),
        ("train", "eval_after=[]", []),
        ("train", "finetune.trainable=blocks.0.*,*norm*", ["blocks.0.*", "*norm*"]),
        ("train", 'finetune.trainable=["a b",c]', ["a b", "c"]),
        ("train", "optim.betas=0.8,0.9", [0.8, 0.9]),
        ("generate", 'stop=[" The end",moral]', [" The end", "moral"]),
        ("generate", "stop=a,b", "a,b"),
        ("train", "data.path=a,b", "a,b"),
    ],
)
def test_lists_need_no_brackets_and_text_no_quotes(command: str, argument: str, value) -> None:
    config = compose_config(command, [argument])
    for name in argument.partition("=")[0].split("."):
        config = getattr(config, name)
    assert config == value


@pytest.mark.parametrize("typed", ["logger=csv,tensorboard,wandb", "logger=[wandb,tensorboard]"])
def test_several_loggers_are_chosen_at_once(typed: str) -> None:
    assert set(compose_config("train", [typed]).logger) == {"tensorboard", "wandb"}
    assert swept("logger=csv,wandb") == ["csv", "wandb"]


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("eval_after=perplexity,samples", [["perplexity"], ["samples"]]),
        ("eval_after=[perplexity,samples],[]", [["perplexity", "samples"], []]),
        ("finetune.lora_targets=*.up", [["*.up"]]),
        ("eval_before=", [[]]),
        ("prompt=a,b", ["a,b"]),
        ("data.path=[a.txt,b.txt],[c.txt]", [["a.txt", "b.txt"], ["c.txt"]]),
        ("model.n_layer=2,4", [2, 4]),
    ],
)
def test_in_a_sweep_a_comma_separates_jobs(typed: str, values: list) -> None:
    assert swept(typed) == values


def test_files_that_exist_are_a_list_or_a_sweep(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = "data.path=a.txt,b's.txt"
    assert swept(typed) == ["a.txt,b's.txt"]  # one name, as long as they do not exist
    for name in ("a.txt", "b's.txt"):
        (tmp_path / name).touch()
    assert compose_config("train", [typed]).data.path == ["a.txt", "b's.txt"]
    assert swept(typed) == ["a.txt", "b's.txt"]
    (tmp_path / "a.txt,b's.txt").touch()
    assert compose_config("train", [typed]).data.path == "a.txt,b's.txt"


def test_a_sweep_over_files_trains_on_each(command, tmp_path: Path) -> None:
    for name in ("a.txt", "b's.txt"):
        (tmp_path / name).write_text("A cat and a dog. " * 300, encoding="utf-8")
    paths = ["data=text", "data.path=a.txt,b's.txt"]
    result = command("train", "-m", *paths, *TINY, "profile=smoke", "trainer.max_steps=1")
    assert result.code == 0, result.err
    (sweep,) = (tmp_path / "runs").iterdir()
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert jobs == ["0,data.path=a.txt", "1,data.path=b-s.txt"]
    assert ",b's.txt," in (sweep / "sweep.csv").read_text(encoding="utf-8")


def test_a_missing_file_of_a_list_is_named(command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A cat. " * 500, encoding="utf-8")
    result = command("train", "data=text", "data.path=a.txt,b.txt")
    assert result.code == 2 and "in this list, b.txt does not exist" in result.err


def swept(typed: str) -> list:
    """Return the value of each job."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    _, argument = hydra_arguments(["-m", typed])
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        assert argument == hydra_argument(typed, is_sweep=True)
        return [override.value()]
    parse = OverridesParser.create().parse_override
    return [parse(f"key={each}").value() for each in override.sweep_string_iterator()]
