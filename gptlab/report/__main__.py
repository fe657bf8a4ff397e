"""Runs beside each other on one page: `python -m gptlab.report runs/a runs/b`.

Curves by steps, tokens and time, sweeps, scaling, samples, figures, settings, and the models'
insides. The page is complete in itself; the pictures lie beside it as PNG.
"""

import argparse
from pathlib import Path

from gptlab.endings import endings
from gptlab.errors import UserError
from gptlab.report.gather import gather
from gptlab.report.page import write_page

PAGE = "index.html"
OURS = '<meta name="generator" content="gptlab">'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gptlab.report", description=__doc__)
    parser.add_argument("runs", nargs="*", default=["latest"], help="of runs, sweeps, or many runs")
    parser.add_argument("--to", default="report", help="the folder to write (report)")
    parser.add_argument("--by", default="steps", choices=["steps", "tokens", "time"])
    parser.add_argument("--prompt", help="of the text that the models are looked into with")
    parser.add_argument("--no-inside", action="store_true", help="do not open the models")
    wanted = parser.parse_args()
    with endings("report"):
        place = Path(wanted.to).expanduser()
        check(place)
        page, pictures = write_page(
            gather(wanted.runs), wanted.by, wanted.prompt, not wanted.no_inside
        )
        save(place, page, pictures)
        print(f"written: {place / PAGE}")


def check(place: Path) -> None:
    """Raises UserError where the page would take the place of what is not ours."""
    try:
        old = (place / PAGE).read_text(encoding="utf-8") if (place / PAGE).exists() else OURS
    except (OSError, ValueError):
        old = ""
    if OURS not in old or (place.exists() and not place.is_dir()):
        raise UserError(f"--to={place}: is there, and no report of gptlab's; name another folder")


def save(place: Path, page: str, pictures: dict[str, bytes]) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in pictures.items():
            (place / f"{name}.png").write_bytes(content)
        temporary = place / f".{PAGE}"
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(place / PAGE)
    except OSError as error:
        raise UserError(f"--to={place}: {error.strerror}") from None


if __name__ == "__main__":
    main()
