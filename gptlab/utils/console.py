"""Print status lines to standard error, so that standard output holds results only."""

import sys


def print_status(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
