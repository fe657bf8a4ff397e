"""Runs beside each other on one page: `python -m gptlab.report runs/a runs/b`.

Curves by steps, tokens and time, sweeps, scaling, samples, figures, settings, and the models'
insides. The page is complete in itself; the pictures lie beside it as PNG.
"""

import argparse
from pathlib import Path

from gptlab.report.html_report import write_page
from gptlab.report.load_runs import load_runs
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError, exit_on_error

PAGE = "index.html"
KINDS = ("curves_", "classifiers_", "heat_map_", "scaling_")  # of pictures
OURS = '<meta name="generator" content="gptlab">'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gptlab.report", description=__doc__)
    parser.add_argument("runs", nargs="*", default=["latest"], help="of runs, sweeps, or many runs")
    parser.add_argument("--to", default="report", help="the folder to write (report)")
    parser.add_argument("--by", default="steps", choices=["steps", "tokens", "time"])
    parser.add_argument("--prompt", help="of the text that the models are looked into with")
    parser.add_argument("--no-inside", action="store_true", help="do not open the models")
    wanted = parser.parse_args()
    with exit_on_error("report"):
        try:
            place = Path(wanted.to).expanduser()
        except RuntimeError as error:
            raise UserError(f"--to={wanted.to}: {error}") from None
        check(place)
        page, pictures = write_page(
            load_runs(wanted.runs), wanted.by, wanted.prompt, not wanted.no_inside
        )
        save(place, page, pictures)
        print(f"written: {place / PAGE}")


def check(place: Path) -> None:
    """Raises UserError for a folder that holds what is not ours."""
    try:
        old = (place / PAGE).read_text(encoding="utf-8") if (place / PAGE).exists() else ""
        free = not place.exists() or (place.is_dir() and not any(place.iterdir()))
    except (OSError, ValueError):
        old, free = "", False
    if not free and OURS not in old:
        raise UserError(f"--to={place}: is there, and no report of gptlab's; name another folder")


def save(place: Path, page: str, pictures: dict[str, bytes]) -> None:
    """All of the report in place of the one before, or nothing of it; raises UserError."""
    files = {f"{name}.png": content for name, content in pictures.items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_files_atomically(place, files | {PAGE: page.encode()})
        for old in place.glob("*.png"):
            if old.name not in files and old.stem.startswith(KINDS):
                old.unlink()
    except OSError as error:
        raise UserError(f"--to={place}: {error.strerror}") from None


if __name__ == "__main__":
    main()
