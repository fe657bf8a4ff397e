"""The report: one page that shows runs beside each other, complete in itself."""

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from gptlab.config import sweeps
from gptlab.evaluation.results_store import format_value
from gptlab.report import sweep_ranking as ranking
from gptlab.report.html import Html, element, picture, table
from gptlab.report.inspection import look
from gptlab.report.load_runs import LoadedRun, differences
from gptlab.report.plots import AXES, curves_over, on_axes, scaling
from gptlab.report.scaling_law import PowerLaw, fit_power_law
from gptlab.report.significance import against_the_best
from gptlab.utils.errors import UserError

LOOKED_AT = 4  # runs whose models are opened
Pictures = dict[str, bytes]  # PNG files to lie beside the page, by name


def write_page(
    found: list[LoadedRun], axis: str, prompt: str | None, inside: bool
) -> tuple[Html, Pictures]:
    """The page and its pictures; `axis` is shown first."""
    pictures: Pictures = {}
    sections = {
        "Runs": overview(found),
        "Curves": curves(found, axis, pictures),
        "Sweeps": heat_maps(found, pictures),
        "Scaling": scaling_plots(found, pictures),
        "Samples": samples(found),
        "Evaluation": evaluation(found),
        "Settings": settings(found),
        "Inside": insides(found, prompt) if inside else Html(""),
    }
    sections = {name: content for name, content in sections.items() if content}
    links = [element("a", name, href=f"#{name.lower()}") for name in sections]
    parts = [
        element("section", element("h2", name), content, id=name.lower())
        for name, content in sections.items()
    ]
    title = found[0].label if len(found) == 1 else f"{len(found)} runs"
    return document(f"gptlab: {title}", element("nav", *links), *parts), pictures


def document(title: str, *content: Html) -> Html:
    style = Html((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content="gptlab"),
        element("title", title),
        element("style", style),
    )
    body = element("body", element("main", element("h1", title), *content))
    return Html("<!doctype html>\n") + element("html", head, body, lang="en")


def overview(found: list[LoadedRun]) -> Html:
    heading = ["run", "parameters", "trained on", "steps", "tokens", "validation loss"]
    heading += ["best possible", "perplexity", "time"]
    typed = dict.fromkeys(run.summary["command"] for run in found if "command" in run.summary)
    commands = [element("pre", command) for command in typed]
    told = element("summary", "what was typed")
    return table(heading, [facts(run) for run in found]) + element("details", told, *commands)


def facts(run: LoadedRun) -> list[Any]:
    summary, after = run.summary, run.summary.get("after", {})
    steps = [point.step for points in run.metrics.values() for point in points]
    return [
        run.label if summary else f"{run.label} (not finished)",
        format_value(run.parameters),
        run.config.get("data.source"),
        format_value(summary.get("steps", max(steps, default=None))),
        format_value(summary.get("tokens")),
        format_value(run.loss),
        format_value(run.best_possible),
        format_value(None if run.classifies else after.get("valid/perplexity")),
        f"{summary['seconds'] / 60:.1f} min" if "seconds" in summary else "–",
    ]


def curves(found: list[LoadedRun], axis: str, pictures: Pictures) -> Html:
    """The same curves over three axes, one shown at a time; classifiers apart, whose losses are of
    messages."""
    parts = Html("")
    for kind, name in ((False, "curves"), (True, "classifiers")):
        some = [run for run in found if run.classifies == kind and run.metrics]
        if some:
            parts += tabs(some, axis, name, pictures)
    return parts


def tabs(some: list[LoadedRun], axis: str, kind: str, pictures: Pictures) -> Html:
    switches, panels = Html(""), Html("")
    for number, name in enumerate(sorted(AXES, key=lambda name: name != axis)):
        forms, key = on_axes(curves_over(name, some)), f"{kind}_by_{name}"
        pictures[key] = forms["png"]
        button = {"type": "radio", "name": kind, "id": key, "checked": number == 0}
        switches += element("input", **button) + element("label", f"by {name}", for_=key)
        panels += element("div", picture(forms, f"loss curves by {AXES[name][0]}"))
    return element("div", switches, panels, class_="tabs")


def heat_maps(found: list[LoadedRun], pictures: Pictures) -> Html:
    """For each sweep over two numbers and more: the best loss at each pair of values."""
    parts = Html("")
    for folder in dict.fromkeys(run.folder.parent for run in found):
        jobs = [
            ranking.Job(0, run.folder, ranking.settings(run.swept), {"loss": run.loss})
            for run in found
            if run.folder.parent == folder and run.summary and run.loss is not None
        ]
        if not (folder / sweeps.SWEEP_FILE).is_file() or not jobs:
            continue
        swept = [key for key in jobs[0].settings if ranking.numbers(jobs, key)]
        jobs = [job for job in jobs if all(key in job.settings for key in swept)]
        for down, across in list(pairwise(swept))[:1]:
            jobs.sort(key=lambda job: job.loss)
            forms = on_axes(partial(heat_map_of, jobs, down, across), (6, 4))
            number = 1 + sum(name.startswith("heat_map") for name in pictures)
            pictures[f"heat_map_{number}"] = forms["png"]
            told = f"{folder.name}: validation loss by {down} and {across}"
            parts += element("h3", told) + picture(forms, told)
    return parts


def heat_map_of(jobs: list[ranking.Job], down: str, across: str, axes: Any, _: list[str]) -> None:
    ranking.heat_map(axes, jobs, down, across)


SIZES = {"parameters": "parameters", "compute": "floating-point operations of training"}


def scaling_plots(found: list[LoadedRun], pictures: Pictures) -> Html:
    """Loss against parameters and against compute, of runs on one corpus."""
    whole = [run for run in found if run.corpus and run.loss and run.compute]
    usual = Counter(run.corpus for run in whole).most_common(1)
    some = [run for run in whole if run.corpus == usual[0][0]]
    floors = {run.best_possible for run in some}
    floor = floors.pop() if len(floors) == 1 else None
    y = [run.loss - (floor or 0) for run in some]
    of = f"validation loss{' above the best possible' if floor else ''}, nats a token"
    parts = Html("")
    for size, words in SIZES.items():
        x = [float(getattr(run, size)) for run in some]
        if len(set(x)) < 2:
            continue
        law = fit_power_law(x, y)
        forms = on_axes(scaling(some, x, y, law, words, of), (7, 4.2))
        pictures[f"scaling_{size}"] = forms["png"]
        parts += element("h3", f"by {words}") + picture(forms, f"{of}, by {words}")
        parts += element("p", *in_words(law, size, len(some)), class_="soft")
    if parts and len(some) < len(found):
        out = len(found) - len(some)
        told = f"Runs on {usual[0][0]}; left out: {out} on another text, or not finished."
        parts += element("p", told, class_="soft")
    return parts


def in_words(law: PowerLaw | None, size: str, points: int) -> list[Any]:
    if law is None:
        return ["No line: it takes three different sizes, and losses above the best possible."]
    low, high = law.interval
    return [
        f"The line: {law.scale:.3g} · {size}",
        element("sup", f"{-law.exponent:.3f}".replace("-", "−")),
        f"; 95 % interval of the exponent {-high:.3f} to {-low:.3f}, ".replace("-", "−"),
        f"from the scatter of {points} runs.",
    ]


def samples(found: list[LoadedRun]) -> Html:
    parts = Html("")
    for run in found:
        if run.samples:
            cards = [
                element("article", element("h4", s.title.replace("_", " ")), element("p", s.text))
                for s in run.samples
            ]
            row = {"class_": "samples", "tabindex": "0", "role": "group"}
            row["aria_label"] = f"samples of {run.label}"
            parts += element("h3", run.label) + element("div", *cards, **row)
    return parts


def evaluation(found: list[LoadedRun]) -> Html:
    """Every figure, a column a run; and whether losses differ."""
    names = list(dict.fromkeys(name for run in found for name in run.figures))
    if not names:
        return Html("")
    rows = [
        [name, *(figure(run.figures, name) for run in found)]
        for name in names
        if not name.endswith(ERROR)
    ]
    about = ("checkpoint", "step", "corpus")
    for fact in about:
        if any(run.evaluation for run in found):
            values = (format_value(run.evaluation.get(fact)) for run in found)
            rows.append([f"gptlab.evaluate: {fact}", *values])
    told = table(["figure", *(run.label for run in found)], rows)
    if pairs := against_the_best(found):
        heading = ["run", "nats a token more", "interval", ""]
        caption = (
            "Losses against the lowest, document by document; of all intervals together 95 % hold"
        )
        told = table(heading, pairs, caption) + told
    return told


ERROR = "/standard_error"


def figure(figures: dict[str, float], name: str) -> str:
    """With its standard error, where there is one: that of a loss, or of acc_norm."""
    suite, _, last = name.rpartition("/")
    error = figures.get(suite + ERROR) if last in ("loss", "acc_norm") else None
    return format_value(figures.get(name)) + (f" ± {error:.4f}" if error is not None else "")


def settings(found: list[LoadedRun]) -> Html:
    """Where the runs' settings are not alike, and all that are, folded up."""
    different = differences(found)
    parts = Html("")
    if different:
        rows = [[key, *map(as_typed, values)] for key, values in different.items()]
        parts += table(["setting", *(run.label for run in found)], rows)
    alike = {k: v for k, v in found[0].config.items() if k not in different}
    rows = [[key, as_typed(value)] for key, value in alike.items()]
    told = "all settings" if len(found) == 1 else "what is the same in all runs"
    folded = element("details", element("summary", told), table(["setting", "value"], rows))
    return parts + folded


def as_typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def insides(found: list[LoadedRun], prompt: str | None) -> Html:
    """Of the best runs that write. Raises UserError for a prompt that none of them can spell."""
    writing = [run for run in found if not run.classifies]
    best = sorted(writing, key=lambda run: float("inf") if run.loss is None else run.loss)
    chosen = [run for run in writing if run in best[:LOOKED_AT]]
    parts, failed = Html(""), 0
    for run in chosen:
        try:
            told = look(run.folder, prompt)
        except UserError as error:
            failed += 1
            if prompt and failed == len(chosen):
                raise
            told = element("p", error.line(), class_="soft")
        parts += element("h3", run.label) + told
    if len(chosen) < len(found) and chosen:
        told = f"The {len(chosen)} best of {len(found)} runs, of those that write."
        parts = element("p", told, class_="soft") + parts
    return parts
