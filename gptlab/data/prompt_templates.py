"""How an instruction is put to a model: everything that stands before the response."""

from collections.abc import Callable

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


def alpaca_template(instruction: str, input: str = "") -> str:
    """The prompt of Stanford's Alpaca (Taori and others, 2023), as the fifth project has it."""
    sections = [ALPACA, f"### Instruction:\n{instruction}"]
    sections += [f"### Input:\n{input}"] if input else []
    return "\n\n".join([*sections, "### Response:\n"])


def plain_template(instruction: str, input: str = "") -> str:
    """No more than needed, for a small context."""
    return f"{instruction}\n{input}\n= " if input else f"{instruction}\n= "


TEMPLATES: dict[str, Callable[..., str]] = {"alpaca": alpaca_template, "plain": plain_template}
