"""The cards of the experiments: what was published, what we measured, where they differ.

`python -m gptlab.report.cards RUN_FOLDER …` keeps a record of each run in docs/experiments/runs
and writes all cards and the README's table anew from the records; no figure is typed by hand.
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from gptlab.report.cards.records import Group, Record, extract, group, keep, load
from gptlab.report.plots import curves
from gptlab.training.callbacks.progress_bar import format_duration
from gptlab.utils.errors import exit_on_error

HOME = Path(__file__).resolve().parents[3]
DOCS = HOME / "docs" / "experiments"
NOT_MEASURED = "not measured"
MARKS = ("<!-- experiments: made by python -m gptlab.report.cards -->", "<!-- end -->")

# What a table of runs can show: heading, figure, how it is written.
FIGURES = [
    ("validation loss, nats a target", "valid/loss", ".4f"),
    ("perplexity", "valid/perplexity", ".4g"),
    ("bits a byte", "valid/bits_per_byte", ".3f"),
    ("held-out tokens scored", "valid/tokens", ",.0f"),
    ("perplexity after the last step", "last/perplexity", ".4g"),
    ("test perplexity", "test/perplexity", ".4g"),
    ("estimate from 200 random batches", "estimate/loss", ".4f"),
    ("perplexity on its own training windows", "windows/perplexity", ".4g"),
    ("longest verbatim span, tokens", "memorisation/longest", ".0f"),
    ("… in real held-out text", "memorisation_held_out/longest", ".0f"),
    ("runs of ten tokens verbatim", "memorisation/10_grams", ".1%"),
    ("… in real held-out text", "memorisation_held_out/10_grams", ".1%"),
    ("validation before, as many tokens", "before:valid/loss", ".4f"),
    ("HellaSwag before, mean loss", "before:hellaswag/acc_norm", ".2%"),
    ("HellaSwag after, mean loss", "hellaswag/acc_norm", ".2%"),
    ("HellaSwag before, sum", "before:hellaswag/acc", ".2%"),
    ("HellaSwag after, sum", "hellaswag/acc", ".2%"),
    ("questions", "hellaswag/n", ",.0f"),
    ("validation accuracy", "valid/accuracy", ".2%"),
    ("test accuracy", "test/accuracy", ".2%"),
    ("test F1", "test/f1", ".4f"),
    ("test targets scored", "test/tokens", ",.0f"),
    ("test accuracy from random weights", "random/accuracy", ".2%"),
    ("test F1 from random weights", "random/f1", ".4f"),
    ("test instructions", "responses/n", ",.0f"),
    ("ROUGE-L of the responses", "responses/rouge_l", ".4f"),
    ("… to each other's answers", "responses/rouge_l_shuffled", ".4f"),
    ("short answers to the letter", "responses/exact", ".1%"),
    ("short answers", "responses/exact_n", ",.0f"),
]


def write_cards(docs: Path, readme: Path) -> None:
    """Every card, its picture, and the README's table, from the records below `docs`."""
    published = yaml.safe_load((docs / "published.yaml").read_text(encoding="utf-8"))
    rows = ["| experiment | published | measured here |", "| --- | --- | --- |"]
    for name, facts in published.items():
        records = [r for each in (name, *facts.get("also", [])) for r in load(docs / "runs", each)]
        groups = group(records)
        if groups:
            curves({g.label: g.first.curve for g in groups}, docs / f"{name}.png")
        (docs / f"{name}.md").write_text(card(name, facts, groups), encoding="utf-8")
        rows.append(readme_row(name, facts, groups))
    text = readme.read_text(encoding="utf-8")
    first, last = (re.escape(mark) for mark in MARKS)
    table = "\n".join([MARKS[0], *rows, MARKS[1]])
    readme.write_text(
        re.sub(f"{first}.*?{last}", lambda _: table, text, flags=re.S), encoding="utf-8"
    )


def readme_row(name: str, facts: dict[str, Any], groups: list[Group]) -> str:
    published = "; ".join(f"{figure} {value}" for figure, value in facts["published"])
    ours = [f"{value(g, facts['headline'])} ({nature(g)})" for g in groups if not named(g)]
    told = "; ".join(ours) or NOT_MEASURED
    link = f"[`{name}`](docs/experiments/{name}.md): {facts['what']}"
    return f"| {link} | {published} | {facts['headline'].replace('/', ' ')} {told} |"


def named(group: Group) -> bool:
    """Whether these runs are a study beside the experiment, called by a name of their own."""
    return bool(group.first.config.get("name"))


def nature(group: Group) -> str:
    """In a few words, whether this is the experiment itself."""
    changed = group.first.differences()
    words = ["own settings" if not changed else "scaled down or changed"]
    if group.first.config.get("data.path"):
        words.append("a sample of the data")
    if len(group.records) > 1:
        words.append(f"{len(group.records)} seeds")
    return f"{group.first.experiment}, " + ", ".join(words)


def value(group: Group, figure: str) -> str:
    """The mean over seeds, with its standard deviation, as the figure is written."""
    form = next(form for _, name, form in FIGURES if name == figure)
    if figure.endswith("perplexity"):
        number = group.losses_as_perplexity(figure)
        return NOT_MEASURED if number is None else format(number, form)
    mean, deviation = group.mean(figure), group.deviation(figure)
    if mean is None:
        return NOT_MEASURED
    return format(mean, form) + (f" ± {deviation:{form}}" if deviation else "")


def card(name: str, facts: dict[str, Any], groups: list[Group]) -> str:
    source = f"Source: {facts['source']}."
    parts = [
        f"# {name}",
        f"{facts['what'][0].upper()}{facts['what'][1:]}. {source}",
        f"```bash\npython train.py experiment={name}\n```",
        "## Published",
        table(["figure", "value"], facts["published"]),
        "## Measured",
        *measured(groups),
        "## Where they differ, and why",
        "\n\n".join(" ".join(part.split()) for part in facts["differ"].split("\n\n")),
        "## Settings",
        table(["setting", "value", "stated or assumed"], facts["settings"]),
        "## Curve",
        f"![Loss by step]({name}.png)" if groups else NOT_MEASURED.capitalize() + ".",
        "## Samples",
        " ".join(facts["samples"].split()),
        *(samples(g.first, g.label) for g in groups),
        "## Each run",
        *(run_lines(record) for g in groups for record in g.records),
    ]
    if not groups:
        parts.append(NOT_MEASURED.capitalize() + ".")
    made = "Made by `python -m gptlab.report.cards` from the records of runs; not to be edited."
    return "\n\n".join([*parts, made]) + "\n"


def table(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def measured(groups: list[Group]) -> list[str]:
    """A column for each group of runs, a row for each figure that any of them has."""
    full = [g for g in groups if not g.first.differences() and not g.first.config.get("data.path")]
    parts = [] if full else [f"The experiment as it stands, on all of its data: {NOT_MEASURED}."]
    if not groups:
        return parts
    rows = [
        ["settings", *(differences(g.first) for g in groups)],
        ["parameters", *(f"{g.first.summary['parameters']:,}" for g in groups)],
        ["data", *(data_words(g.first) for g in groups)],
        ["steps", *(f"{g.first.summary['steps']:,}" for g in groups)],
        ["tokens", *(f"{g.first.summary['tokens']:,}" for g in groups)],
        ["passes", *(f"{g.first.summary['epochs']:.2f}" for g in groups)],
        ["seeds", *(", ".join(str(r.config["seed"]) for r in g.records) for g in groups)],
    ]
    for head, figure, _ in FIGURES:
        if any(g.mean(figure) is not None for g in groups):
            rows.append([head, *(value(g, figure) for g in groups)])
    rows += [
        ["time", *(time_words(g) for g in groups)],
        ["machine", *(machine_words(g.first) for g in groups)],
    ]
    return [*parts, table(["", *(g.label for g in groups)], rows)]


def differences(record: Record) -> str:
    words = [f"{key}={ours} (not {theirs})" for key, (ours, theirs) in record.differences().items()]
    return "<br>".join(words) or "the experiment's own"


def data_words(record: Record) -> str:
    corpus = record.summary["corpus"]
    words = [f"{split['documents']:,} {name}" for name, split in corpus["splits"].items()]
    repaired = "mended" if corpus["repaired"] else "left in"
    return (
        f"documents: {', '.join(words)}; vocabulary {corpus['vocabulary']:,}; encoding damage in "
        f"{corpus['mojibake']:,} places, {repaired}; held-out documents that also stand in the "
        f"training text: {corpus['duplicates_across_splits']:,}"
    )


def time_words(group: Group) -> str:
    wall = sum(r.summary["seconds"] for r in group.records) / len(group.records)
    cpu = sum(r.summary["cpu_seconds"] for r in group.records) / len(group.records)
    each = " each" if len(group.records) > 1 else ""
    return f"{format_duration(wall)}{each}; {format_duration(cpu)} of processor time"


def machine_words(record: Record) -> str:
    machine = record.summary["machine"]
    return (
        f"{machine['device']}, {machine['threads']} of {machine['cores']} cores, "
        f"{machine['precision']}, torch {machine['torch']}"
    )


def samples(record: Record, label: str) -> str:
    """What the run wrote, epoch by epoch where it wrote so, otherwise first and last."""
    names = [name for name in record.samples if "epoch" in name] or list(record.samples)
    if len(names) > 5:
        names = [names[0], names[-1]]
    parts = [f"### {label}"]
    for name in names:
        text = re.sub(r"\n{3,}", "\n\n", record.samples[name].strip())  # many empty lines as one
        texts = "\n".join(f"> {line}" for line in text.splitlines())
        parts.append(f"**{name.removeprefix('generated_text_').replace('_', ' ')}**\n\n{texts}")
    return "\n\n".join(parts)


def run_lines(record: Record) -> str:
    summary = record.summary
    target = "message" if "valid/accuracy" in summary["after"] else "token"
    return (
        f"`{summary['command']}`\\\nbegun {summary['began']}, code {summary['commit']}, seed "
        f"{record.config['seed']}, {format_duration(summary['seconds'])}; scored "
        f"{summary['scored']}: {summary['after']['valid/loss']:.4f} nats a {target} on "
        f"{summary['after']['valid/tokens']:,} held-out {target}s"
    )


def main() -> None:
    with exit_on_error("report"):
        for folder in sys.argv[1:]:
            print(f"kept {keep(extract(Path(folder)), DOCS / 'runs')}")
        write_cards(DOCS, HOME / "README.md")
