"""Measure speed on this machine: `python -m gptlab.bench`, or name some of its parts.

Contenders take turns; `×` is the ratio to the first line, with its spread. Runs are written to a
temporary folder and deleted.
"""

import argparse
import contextlib
import tempfile

from gptlab.config.keys import table_names
from gptlab.utils.console import replace_unencodable
from gptlab.utils.program import program


def main() -> None:
    replace_unencodable()
    names = table_names("gptlab.bench.parts.PARTS")
    parser = argparse.ArgumentParser(prog=program("bench"), description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"default: all ({', '.join(names)})")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(names):
        parser.error(f"invalid choice: {', '.join(unknown)} (choose from {', '.join(names)})")
    from gptlab.bench.parts import PARTS  # imports torch: too slow for --help

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in arguments.parts or names:
            print(f"{name}: {PARTS[name].__doc__}", flush=True)
            PARTS[name](arguments.rounds)


if __name__ == "__main__":
    main()
