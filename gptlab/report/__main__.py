"""Compare runs on one HTML page: `python -m gptlab.report runs/a runs/b`.

The page shows loss curves by steps, tokens and time, sweeps, scaling, samples, results, settings,
and each model's attention, logit lens and surprise. It needs no network; its plots are also written
as PNG files.
"""

import argparse
from pathlib import Path

from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError, exit_on_error
from gptlab.utils.plugins import trust_arguments
from gptlab.utils.program import program

PAGE = "index.html"
PICTURE_PREFIXES = ("curves_", "classifiers_", "heat_map_", "scaling_")
RUNS_HELP = "run folders, sweeps, or folders of runs; plugins=[mypkg]: trust a package they use"
GENERATOR_TAG = '<meta name="generator" content="gptlab">'


def main() -> None:
    parser = argparse.ArgumentParser(prog=program("report"), description=__doc__)
    add = parser.add_argument
    add("runs", nargs="*", default=["latest"], help=RUNS_HELP)
    add("--output-dir", default="report", help="folder to write (default: report)")
    add("--x-axis", default="steps", choices=["steps", "tokens", "time"], help="x-axis shown first")
    add("--prompt", help="start of the text that the models are inspected with")
    add("--no-inspection", action="store_true", help="do not load the models")
    with exit_on_error("report"):
        arguments = parser.parse_args()
        from gptlab.report.html_report import render_report  # imports torch: too slow for --help
        from gptlab.report.load_runs import load_runs

        try:
            folder = Path(arguments.output_dir).expanduser()
        except RuntimeError as error:
            raise UserError(f"--output-dir={arguments.output_dir}: {error}") from None
        check_report_dir(folder)
        runs = load_runs(trust_arguments(arguments.runs) or ["latest"])
        inspect_models = not arguments.no_inspection
        page, pictures = render_report(runs, arguments.x_axis, arguments.prompt, inspect_models)
        save_report(folder, page, pictures)
        print(f"written: {folder / PAGE}")


def check_report_dir(folder: Path) -> None:
    """Raise UserError unless the folder is missing, empty, or holds an earlier report."""
    try:
        old_page = (folder / PAGE).read_text("utf-8") if (folder / PAGE).exists() else ""
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except (OSError, ValueError):
        old_page, is_free = "", False
    if not is_free and GENERATOR_TAG not in old_page:
        raise UserError(
            f"--output-dir={folder}: exists and is not a gptlab report; name another folder"
        )


def save_report(folder: Path, page: str, pictures: dict[str, bytes]) -> None:
    """Replace an earlier report, or write nothing; raises UserError if the disk refuses."""
    files = {f"{name}.png": content for name, content in pictures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files_atomically(folder, files | {PAGE: page.encode()})
        for old in folder.glob("*.png"):
            if old.name not in files and old.stem.startswith(PICTURE_PREFIXES):
                old.unlink()
    except OSError as error:
        raise UserError(f"--output-dir={folder}: {error.strerror}") from None


if __name__ == "__main__":
    main()
