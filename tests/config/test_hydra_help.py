"""Hydra's own parser on Python 3.14, which formats each help when its argument is added."""

import argparse

import pytest
from hydra._internal.utils import get_args_parser


@pytest.fixture
def checked_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let argparse check as Python 3.14 does."""
    container = argparse._ActionsContainer
    if hasattr(container, "_check_help"):
        return
    add_argument = container.add_argument

    def check_help(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        try:
            "%" in action.help  # noqa: B015
        except TypeError:
            raise ValueError("badly formed help string") from None

    def add_checked(parser: argparse.ArgumentParser, *names, **settings) -> argparse.Action:
        action = add_argument(parser, *names, **settings)
        if action.help:
            parser._check_help(action)
        return action

    monkeypatch.setattr(container, "_check_help", check_help, raising=False)
    monkeypatch.setattr(container, "add_argument", add_checked)


def test_hydras_options_work_where_argparse_checks_help(command, checked_help: None) -> None:
    result = command("train", "--cfg", "job", "--package", "optim")
    assert result.code == 0 and "lr:" in result.out, result.err
    with pytest.raises(ValueError, match="badly formed help"):  # the check is back, and needed
        get_args_parser()
