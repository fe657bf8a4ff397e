"""Prompt templates: the text before the response, made from an instruction.

To add a template, write a function and enter it in `PROMPT_TEMPLATES`.
"""

from collections.abc import Callable


def alpaca_template(instruction: str, input: str = "") -> str:
    """Return the prompt of Stanford's Alpaca (Taori et al., 2023)."""
    introduction = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
    )
    sections = [introduction, f"### Instruction:\n{instruction}"]
    sections += [f"### Input:\n{input}"] if input else []
    return "\n\n".join([*sections, "### Response:\n"])


def plain_template(instruction: str, input: str = "") -> str:
    """Return a minimal prompt, for a small context."""
    return f"{instruction}\n{input}\n= " if input else f"{instruction}\n= "


PROMPT_TEMPLATES: dict[str, Callable[..., str]] = {
    "alpaca": alpaca_template,
    "plain": plain_template,
}
