"""Status lines for the person at the terminal, on standard error."""

import sys


def print_status(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
