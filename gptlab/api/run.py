"""A run folder from Python: settings, metrics, samples, plots, and its model."""

import csv
import html
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gptlab.utils import run_dir
from gptlab.utils.console import format_duration
from gptlab.utils.errors import UserError, one_line_errors

if TYPE_CHECKING:
    from gptlab.api.model import GeneratedText, Model
    from gptlab.api.notebook import NotebookFigure
    from gptlab.evaluation.eval_context import Results
    from gptlab.report.load_runs import LoadedRun
    from gptlab.training.run_summary import RunSummary


class Run:
    """A run of `gptlab.train` or `python train.py`: its folder and everything in it.

    `Run("latest")`, `Run(FOLDER)` and `Run(NAME)` open an existing run. Attributes are read from
    the folder each time, so a run that is still training can be watched. Raises UserError if there
    is no such run.
    """

    def __init__(self, run: str | Path = "latest", run_root: str | Path = "runs"):
        path = run_dir.locate_run("run", str(run), str(run_root))
        if str(run) == "latest":
            path = run_dir.latest_checkpoint(path).parent.parent
        if not (path / "config.yaml").is_file():
            raise UserError(f"run={run}: is not a run folder (it has no config.yaml)")
        self.folder = path.absolute()

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The settings by group and key: `run.config["model"]["n_layer"]`."""
        return dict(yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")))

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step and was evaluated."""
        return run_dir.is_finished(self.folder)

    @property
    def summary(self) -> "RunSummary":
        """The results: `run.summary.valid_loss`, nats per token. Raises UserError if unfinished."""
        from gptlab.training.run_summary import RunSummary

        if not self.finished:
            raise UserError(f"{self.folder}: is not finished; run.resume() continues it")
        return RunSummary.read(self.folder)

    @property
    def metrics(self) -> Any:
        """The rows of metrics.csv: a pandas DataFrame, or without pandas a list of dictionaries.

        A row of the DataFrame has NaN, and a dictionary lacks the key, where nothing was measured.
        """
        path = self.folder / "metrics.csv"
        try:
            import pandas
        except ImportError:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return [{key: float(value) for key, value in row.items() if value} for row in rows]
        return pandas.read_csv(path)

    @property
    def samples(self) -> dict[str, str]:
        """The texts generated in training, by the name of their file: `step_400`."""
        paths = run_dir.sample_files(self.folder)
        return {path.stem: path.read_text(encoding="utf-8", errors="replace") for path in paths}

    def plot(self, x_axis: str = "steps") -> "NotebookFigure":
        """Plot training and validation loss over `steps`, `tokens` or `time`.

        A dotted line is the best possible loss, where it is known.
        """
        from gptlab.api.notebook import NotebookFigure
        from gptlab.report.plots import COLORS, X_AXES, loss_curves
        from gptlab.utils.plugins import resolve_choice

        resolve_choice("x_axis", x_axis, X_AXES)
        figure = NotebookFigure(figsize=(8, 4.2), layout="constrained")
        loss_curves(x_axis, [self._load()])(figure.subplots(), COLORS)
        return figure

    def _load(self) -> "LoadedRun":
        from gptlab.report.load_runs import label_runs, load_run

        return label_runs([load_run(self.folder)])[0]

    def model(self, checkpoint: str = "best", **settings: Any) -> "Model":
        """Load the model of `best`, `last` or another checkpoint; settings as in `gptlab.load`.

        Without a best checkpoint, the last one is loaded.
        """
        from gptlab.api.model import load

        path = self.folder / "checkpoints" / f"{checkpoint}.ckpt"
        return load(path if checkpoint != "best" or path.exists() else self.folder, **settings)

    def generate(self, prompt: str = "", n: int = 1, **settings: Any) -> "list[GeneratedText]":
        """Generate texts with the best checkpoint; arguments as in `Model.generate`."""
        path = run_dir.find_checkpoint(str(self.folder), "")
        model = load_version(path, path.stat().st_mtime_ns)
        return model.generate(prompt, n, **settings)

    def evaluate(self, *suites: str, **keys: Any) -> "Results":
        """Run evaluation suites as `python -m gptlab.evaluate` does; return their results.

        Without a name, runs `perplexity`. The results are also stored in evaluation.json.
        """
        from gptlab.api.overrides import make_overrides
        from gptlab.config.cli import composed_config, trust_typed

        named = {"suite": list(suites or ("perplexity",)), "run": self.folder}
        arguments, _ = make_overrides("evaluate", (), keys | named)
        with one_line_errors("evaluate"), composed_config("evaluate", arguments) as config:
            from gptlab.evaluation.cli import evaluate_suites, open_evaluation

            every_suite = evaluate_suites(config, *open_evaluation(trust_typed(config)))
            return {name: value for _, results in every_suite for name, value in results.items()}

    def resume(self, *overrides: str, **keys: Any) -> "Run":
        """Continue the run after its last checkpoint, exactly as if it had not been stopped."""
        from gptlab.api.train import train

        return train(*overrides, **keys, resume=self.folder)

    def _repr_html_(self) -> str:
        """Show the final figures and the curve in a notebook."""
        from gptlab.api.notebook import image_tag

        rows = {"run": str(self.folder), "state": "finished"}
        if self.finished:
            rows |= final_figures(self.summary)
        else:
            rows["state"] = "not finished; run.resume() continues it"
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>{image_tag(self.plot())}"


@lru_cache(1)
def load_version(path: Path, modified: int) -> "Model":
    """Load a checkpoint as it was at this time, so that generating repeatedly loads it once."""
    from gptlab.api.model import load

    return load(path)


def final_figures(summary: "RunSummary") -> dict[str, str]:
    """Format the results that a notebook shows, by label."""
    numbers = {
        "validation loss": (summary.valid_loss, "{:.4f} nats"),
        "best possible loss": (summary.best_possible_loss, "{:.4f} nats"),
        "perplexity": (summary.perplexity, "{:.4g}"),
        "accuracy": (summary.accuracy, "{:.2%}"),
        "parameters": (summary.parameters, "{:,}"),
        "steps": (summary.steps, "{:,}"),
        "tokens": (summary.tokens, "{:,}"),
    }
    known = {label: text.format(n) for label, (n, text) in numbers.items() if n is not None}
    return known | {"time": format_duration(summary.seconds)}
