"""The one exception that a user's mistake becomes, and the words that help to mend it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the user's. Commands show it as one line and exit with code 2."""

    def line(self) -> str:
        """The message with what a terminal would not show as a letter in Python's notation."""
        shown = (c if c.isprintable() else ascii(c)[1:-1] for c in str(self))
        return "".join(shown)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'seed'?` where a known word is near, otherwise nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def look_up(key: str, name: str, table: Mapping[str, T]) -> T:
    """The table's entry of that name; raises UserError with the list of choices."""
    if name not in table:
        raise UserError(
            f"{key}={name}: there is no such choice; the choices are {', '.join(table)}"
            f"{did_you_mean(str(name), table)}"
        )
    return table[name]
