"""The command line: composing, validating, error messages, help."""

import functools
import importlib
import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.config import cli
from gptlab.config.arguments import hydra_argument
from gptlab.config.help import default_values, help_text
from gptlab.config.keys import CONF_DIR, OPEN_KEYS, KeyInfo, flatten, keys_of
from gptlab.config.renamed_keys import RENAMED_KEYS
from gptlab.config.schema import SCHEMAS, TrainConfig
from gptlab.config.validation import validate_config
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, files_below

CHOICES = [path.relative_to(CONF_DIR) for path in CONF_DIR.glob("*/*.yaml")]


def compose(*arguments: str) -> TrainConfig:
    return cli.compose_config("train", list(arguments))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_composes_and_its_file_starts_with_a_command(choice) -> None:
    lines = (CONF_DIR / choice).read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line != "# @package _global_")  # Hydra requires it first
    assert first.startswith(("# python ", "# tensorboard ")), first
    compose(f"{choice.parts[0]}={choice.stem}")


REFUSED = {
    "sede=3": "sede: unknown key; did you mean 'seed'?",
    "+sede=3": "sede: unknown key; did you mean 'seed'?",
    "model.n_hed=2": "model.n_hed: unknown key; did you mean 'model.n_head'?",
    "learning_rate=3": "learning_rate: unknown key; did you mean 'optim.lr'?",
    "max_step=100": "max_step: unknown key; did you mean 'trainer.max_steps'?",
    "--max_steps=3": "--max_steps=3: settings are written without dashes: trainer.max_steps=3",
    "tiny_char": "tiny_char: write experiment=tiny_char or model=tiny_char",
    "trainer.threads=2": "trainer.threads: is now trainer.num_threads",
    "n=3": "n: is now num_samples",
    "from_scratch=true": "from_scratch=true takes the architecture of another model",
    "data.task=classification": "type data=toy_spam or data=sms_spam, or name your own file",
    "data.task=instructions": "type data=toy_instructions or data=instructions, or name your own",
    "init_from=latest": "init_from=latest: no checkpoint in runs",
    "init_from=nowhere": "init_from=nowhere: no such run folder",
    "model.n_layer=abc": "model.n_layer=abc must be a whole number",
    "model.n_layer=0": "model.n_layer=0 must be at least 1",
    "optim.lr=abc": "optim.lr=abc must be a number",
    "optim.lr=nan": "optim.lr=nan must be a finite number",
    "optim.lr=-1": "optim.lr=-1.0 must be at least 0",
    "optim.betas=[0.9,x]": "optim.betas[1]=x must be a number",
    "model.bias=perhaps": "model.bias=perhaps must be true or false",
    "data=tinystory": "data=tinystory: invalid choice; choose from fineweb_edu,",
    "model.n_head=5": "model.n_head=5 must divide model.d_model=128 (try 4 or 8)",
    "data.row_length=500": "data.row_length=500 must be at most 129",
    "data.source=files": "data.source=files: invalid choice",
    "data.batching=stripes": "data.batching=stripes: invalid choice",
    "model.position=absolute": "model.position=absolute: invalid choice; choose from",
    "model.feed_forward=gelo": "model.feed_forward=gelo: invalid choice",
    "model.norm=mid": "model.norm=mid: invalid choice; choose from pre, post",
    "optim.name=adan": "optim.name=adan: invalid choice; choose from adamw, adam, sgd",
    "optim.schedule=cosin": "optim.schedule=cosin: invalid choice",
    "tokenizer.name=bpe": "tokenizer.name=bpe: invalid choice",
    "trainer.tokens_per_step=1000": "trainer.tokens_per_step=1000: must be a multiple of",
    "model.vocab_size=5": "model.vocab_size=5: the tokenizer has",
    "optim.warmup_steps=999": "optim.warmup_steps=999: must not exceed the run's 400 steps",
    "+trainer.extra.max_steps=3": "trainer.extra.max_steps: gptlab sets this argument",
    "trainer.strategy=dpp": "Lightning cannot train with these trainer settings",
    "model.n_layer=null": "model.n_layer=null must be a value",
    "model=null": "a group takes the name of one of its choices",
    "model.n_layer=1,2": "add -m",
    "trainer.devices=4096": "trainer.devices=4096: this machine has",
    "+callbacks.mine=1": "needs a class",
    "+callbacks.mine._target_=builtins.dict": "is not a subclass of Lightning's Callback",
    "+callbacks.mine._target_=no.such.Class": "cannot be instantiated",
    "data.path=~nobody/x": "data.path=~nobody/x: ",
    "~model": "~model: a key cannot be removed",
    "model.n_layer=[1": "model.n_layer=[1: cannot be read as key=value",
    "+trainer.extra.no_such=1": "trainer.extra.no_such: Lightning's Trainer has no such argument",
    "trainer.extra.no_such=1": "add it with a plus: +trainer.extra.no_such=VALUE",
    "experiment=toy_bst": "did you mean 'toy_best'?",
}


# Detected only after the corpus is built, which stays for the corrected command.
NEEDS_DATA = ("model.vocab_size", "trainer.tokens_per_step", "optim.warmup", "trainer.strategy")


@pytest.mark.parametrize("argument", REFUSED)
def test_an_invalid_argument_ends_in_one_line_and_writes_nothing(
    command, tmp_path, argument
) -> None:
    result = command("train", argument, "data.max_samples=50")
    assert result.code == 2
    assert REFUSED[argument] in result.err
    assert result.err.count("\n") == 1 and result.err.startswith("error: ")
    if not argument.startswith(NEEDS_DATA):
        assert not files_below(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_every_renamed_key_leads_from_a_name_that_is_gone_to_one_that_exists() -> None:
    known = {name for schema in SCHEMAS.values() for name in keys_of(schema)}
    assert set(RENAMED_KEYS.values()) <= known and not known & set(RENAMED_KEYS)


def test_an_invalid_source_is_refused_even_with_a_path(command, tmp_path) -> None:
    (tmp_path / "own.txt").write_text("a cat " * 300, encoding="utf-8")
    result = command("train", "data=text", "data.path=own.txt", "data.source=files")
    assert result.code == 2 and "data.source=files: invalid choice" in result.err


def test_contradicting_values_are_refused() -> None:
    for arguments, words in {
        ("model.position=rotary", "model.d_model=12", "model.n_head=4"): "even head width",
        ("model.position=sinusoidal", "model.d_model=5", "model.n_head=1"): "must be even",
        ("optim.min_lr=1", "optim.lr=0.1"): "at most optim.lr",
        ("trainer.tokens_per_step=64", "trainer.accumulate_grad_batches=2"): "remove",
        ("optim.betas=[0.9,1.0]",): "optim.betas",
    }.items():
        with pytest.raises(UserError, match=words):
            compose(*arguments)


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        ([], "adamw_fast, set by model=toy"),
        (["optim=adamw_wsd"], "adamw_wsd"),
        (["model=gpt2_4layer"], "adamw_cosine"),
        (["experiment=tiny_char"], "adamw_torch, set by experiment=tiny_char"),
    ],
)
def test_a_choice_made_by_another_file_is_named(monkeypatch, arguments, choice) -> None:
    seen: list[str] = []
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    cli.command("train")(lambda config: seen.append(cli.describe_choice("optim")))()
    assert seen == [choice]


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("a backslash before the last line's end\\\n")
def test_any_free_text_arrives_unchanged(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    quoted = hydra_argument(f"prompt={text}")
    override = OverridesParser.create().parse_override(quoted)
    arrived = OmegaConf.to_container(OmegaConf.create({"prompt": override.value()}), resolve=True)
    if text == "null":
        assert arrived["prompt"] is None
    else:
        assert arrived["prompt"] == text


@pytest.mark.parametrize(
    "text",
    ["Hello, I'm a language model,", "a=b, c=${d} {e}", "two\nlines", "🦊 مرحبا", "tail\\", ""],
)
def test_prompts_and_paths_compose_unchanged(text: str) -> None:
    assert compose(f"prompt={text}").prompt == text
    assert compose(f"data.path={text}").data.path == text


def test_paths_in_brackets_are_a_list() -> None:
    assert compose("data.path=[a.txt,b.txt]").data.path == ["a.txt", "b.txt"]


def test_later_choices_override_earlier_ones() -> None:
    """A typed value overrides the profile, the profile an experiment, an experiment the groups."""
    assert compose("experiment=toy_best").trainer.max_steps == 3000
    assert compose("experiment=toy_best", "profile=smoke").trainer.max_steps == 2
    assert (
        compose("experiment=toy_best", "profile=smoke", "trainer.max_steps=7").trainer.max_steps
        == 7
    )
    assert compose("data=tinystories").tokenizer.name == "gpt2"
    assert compose("data=tinystories", "tokenizer=char").tokenizer.name == "char"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_help_lists_groups_and_keys_without_heavy_imports() -> None:
    done = run("--help", "all")
    assert done.returncode == 0
    for words in ("tinystories_char", "optim.weight_decay", "toy_best", "--cfg job"):
        assert words in done.stdout
    listing = f"import sys; sys.argv = ['train.py', '--help']; sys.path.insert(0, {str(ROOT)!r})"
    code = f"{listing}; import train; train.main(); print({{'torch', 'hydra'}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_shows_the_defaults_that_a_command_has(command: str) -> None:
    composed = flatten(cli.compose_config(command, []))
    shown = default_values(command)
    assert {key: composed[key] for key in shown if key not in OPEN_KEYS} == {
        key: value for key, value in shown.items() if key not in OPEN_KEYS
    }


def test_help_starts_with_what_people_use() -> None:
    lines = help_text("train").splitlines()
    assert len(lines) < 30 and sum("=" in line[:40] for line in lines) >= 15
    text = "\n".join(lines)
    for words in ("model=toy ", "optim.lr=0.008 ", "--help all", "tiny_char"):
        assert words in text
    assert "trainer.num_threads" not in text and "trainer.num_threads" in help_text("train", "all")
    of_a_group = help_text("train", "optim")
    assert "optim=adamw_fast" in of_a_group and "optim.lr=" in of_a_group
    assert "model." not in of_a_group
    with pytest.raises(UserError, match=r"did you mean 'optim.momentum'"):
        help_text("train", "momentom")


@pytest.mark.parametrize("command", SCHEMAS)
def test_no_group_of_help_is_empty(command: str) -> None:
    for topic in ("", "all"):
        lines = help_text(command, topic).splitlines()
        headings = [n for n, line in enumerate(lines) if line.endswith(":")]
        assert headings and all(lines[n + 1].startswith("  ") for n in headings)


def test_cfg_job_prints_the_configuration() -> None:
    done = run("--cfg", "job", "model=tiny_char")
    assert done.returncode == 0 and "d_model: 64" in done.stdout


def test_shell_completion_lists_choices() -> None:
    line = "python train.py model=tin"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT, capture_output=True, text=True, env=environment,
        encoding="utf-8",
    )  # fmt: skip
    assert done.stdout.split() == ["model=tiny_char"]


ALL_KEYS = [(command, info) for command in SCHEMAS for info in keys_of(SCHEMAS[command]).values()]


def key_id(value: object) -> str:
    return value.name if isinstance(value, KeyInfo) else str(value)


def validation_error(command: str, name: str, value: object) -> str:
    """What validation says about this command's defaults with one value changed."""
    config = SCHEMAS[command]()
    *groups, last = name.split(".")
    target = functools.reduce(getattr, groups, config)
    setattr(target, last, [value] if isinstance(getattr(target, last), list) else value)
    try:
        validate_config(config)
    except UserError as error:
        return str(error)
    return ""


HELP = {command: help_text(command, "all") for command in SCHEMAS}


@pytest.mark.fast
@pytest.mark.parametrize(("command", "info"), ALL_KEYS, ids=key_id)
def test_every_key_has_help_and_its_bounds_and_choices_are_enforced(command, info) -> None:
    assert info.help and f"  {info.name}=" in HELP[command]
    message = f" must be {info.range}"
    for bound, beyond in ((info.low, -1), (info.high, 1)):
        if bound is not None:
            assert message in validation_error(command, info.name, bound + beyond)
            assert message not in validation_error(command, info.name, bound)
    if info.choices:
        assert "invalid choice" in validation_error(command, info.name, "no-such-choice")
        for choice in info.choices:
            assert "invalid choice" not in validation_error(command, info.name, choice)


def test_choices_read_from_source_equal_the_table() -> None:
    for reference in {ref for _, info in ALL_KEYS for ref in info.allowed if "." in ref}:
        module, _, table = reference.rpartition(".")
        code = f"from gptlab.config.keys import table_names; print(table_names({reference!r}))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
        )
        names = list(getattr(importlib.import_module(module), table))
        assert done.stdout.strip() == str(names), reference
