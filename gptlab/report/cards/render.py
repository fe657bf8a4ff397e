"""Generate the experiment cards and the README's table from measured runs.

`python -m gptlab.report.cards RUN_FOLDER …` first stores the results of each run in
docs/experiments/runs. Texts come from docs/experiments/published.yaml, results from these runs.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from gptlab.config.keys import CONF_DIR, PROJECT_DIR
from gptlab.report.cards import measured_runs
from gptlab.report.cards.measured_runs import MeasuredRun, SeedGroup
from gptlab.report.load_runs import format_setting
from gptlab.report.plots import save_card_curves
from gptlab.utils.console import format_duration
from gptlab.utils.errors import UserError, exit_on_error

DOCS = PROJECT_DIR / "docs" / "experiments"
NOT_MEASURED = "not measured"
TABLE_MARKS = ("<!-- experiments: made by python -m gptlab.report.cards -->", "<!-- end -->")

# Rows of a card's table of results: heading, result, format.
RESULT_ROWS = [
    ("validation loss (nats)", "valid/loss", ".4f"),
    ("validation perplexity", "valid/perplexity", ".4g"),
    ("validation bits per byte", "valid/bits_per_byte", ".3f"),
    ("validation targets scored", "valid/tokens", ",.0f"),
    ("validation messages scored", "valid/messages", ",.0f"),
    ("validation perplexity of the last checkpoint", "last/perplexity", ".4g"),
    ("test perplexity", "test/perplexity", ".4g"),
    ("loss estimated from 200 random batches", "estimate/loss", ".4f"),
    ("perplexity on the training windows", "windows/perplexity", ".4g"),
    ("longest span copied from the training text, tokens", "memorisation/longest", ".0f"),
    ("longest such span in held-out text, tokens", "memorisation_held_out/longest", ".0f"),
    ("10-token spans copied from the training text", "memorisation/10_grams", ".1%"),
    (
        "10-token spans of held-out text in the training text",
        "memorisation_held_out/10_grams",
        ".1%",
    ),
    ("validation loss before training, same data", "before:valid/loss", ".4f"),
    ("HellaSwag before, mean loss per token", "before:hellaswag/acc_norm", ".2%"),
    ("HellaSwag after, mean loss per token", "hellaswag/acc_norm", ".2%"),
    ("HellaSwag before, summed loss", "before:hellaswag/acc", ".2%"),
    ("HellaSwag after, summed loss", "hellaswag/acc", ".2%"),
    ("HellaSwag questions", "hellaswag/n", ",.0f"),
    ("validation accuracy", "valid/accuracy", ".2%"),
    ("test accuracy", "test/accuracy", ".2%"),
    ("test F1", "test/f1", ".4f"),
    ("test targets scored", "test/tokens", ",.0f"),
    ("test messages scored", "test/messages", ",.0f"),
    ("test accuracy from random weights", "random/accuracy", ".2%"),
    ("test F1 from random weights", "random/f1", ".4f"),
    ("test instructions", "responses/n", ",.0f"),
    ("ROUGE-L of the responses", "responses/rouge_l", ".4f"),
    ("ROUGE-L against answers to other instructions", "responses/rouge_l_shuffled", ".4f"),
    ("short answers that match exactly", "responses/exact", ".1%"),
    ("short answers", "responses/exact_n", ",.0f"),
]
HEADINGS = {result: heading for heading, result, _ in RESULT_ROWS}
FORMATS = {result: number_format for _, result, number_format in RESULT_ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gptlab.report.cards", description=__doc__)
    parser.add_argument("runs", nargs="*", help="folders of finished runs to store first")
    runs = parser.parse_args().runs
    with exit_on_error("report"):
        if not DOCS.is_dir():
            raise UserError("docs/experiments is missing: make the cards in a clone of gptlab")
        for folder in runs:
            run = measured_runs.read_run(Path(folder))
            print(f"stored {measured_runs.save_run(run, DOCS / 'runs')}")
        write_cards(DOCS, PROJECT_DIR / "README.md")


def write_cards(docs: Path, readme: Path) -> None:
    """Write each experiment's card and plot, and the table in the README."""
    published = yaml.safe_load((docs / "published.yaml").read_text(encoding="utf-8"))
    rows = []
    for name, texts in published.items():
        experiments = (name, *texts.get("variants", []))
        stored = (measured_runs.load_experiment_runs(docs / "runs", each) for each in experiments)
        groups = measured_runs.group_by_seed([run for runs in stored for run in runs])
        if groups:
            save_card_curves({g.label: g.first.curve for g in groups}, docs / f"{name}.png")
        (docs / f"{name}.md").write_text(
            render_card(name, texts, groups), encoding="utf-8", newline="\n"
        )
        rows.append(readme_row(name, texts, groups))
    heading = ["experiment", "published", "measured here", "what to know"]
    table = f"{TABLE_MARKS[0]}\n{markdown_table(heading, rows)}\n{TABLE_MARKS[1]}"
    start, end = map(re.escape, TABLE_MARKS)
    text = readme.read_text(encoding="utf-8")
    readme.write_text(
        re.sub(f"(?s){start}.*?{end}", lambda _: table, text), encoding="utf-8", newline="\n"
    )


def readme_row(name: str, texts: dict[str, Any], groups: list[SeedGroup]) -> list[str]:
    """Summarize an experiment: the result closest to its settings, for it and each variant."""
    best: dict[str, SeedGroup] = {}
    for group in sorted(groups, key=lambda g: (g.is_named, len(g.first.changed_settings()))):
        best.setdefault(group.first.experiment, group)
    measured = []
    for experiment, group in best.items():
        variant = "" if experiment == name else f"{experiment} "
        measured.append(variant + format_seed_mean(group, texts["headline"]))
    result = f"{HEADINGS[texts['headline']]} {'; '.join(measured) or NOT_MEASURED}"
    notes = [describe_scale(best[name])] if name in best else []
    link = f"[`{name}`](docs/experiments/{name}.md): {texts['what']}"
    return [link, texts["published_short"], result, "; ".join([*notes, texts["note"]])]


def describe_scale(group: SeedGroup) -> str:
    """Describe how a measurement differs in scale from the full experiment."""
    words = ["scaled down" if group.first.changed_settings() else "full settings"]
    if group.first.has_data_sample:
        words.append("data sample")
    if len(group.runs) > 1:
        words.append(f"{len(group.runs)} seeds")
    return ", ".join(words)


def format_seed_mean(group: SeedGroup, result: str) -> str:
    """Format the mean over seeds with its standard deviation."""
    mean, deviation = group.mean(result), group.deviation(result)
    if mean is None:
        return NOT_MEASURED
    number_format = FORMATS[result]
    return format(mean, number_format) + (f" ± {deviation:{number_format}}" if deviation else "")


def render_card(name: str, texts: dict[str, Any], groups: list[SeedGroup]) -> str:
    not_measured = f"{NOT_MEASURED.capitalize()}."
    experiment = (CONF_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    command = experiment.splitlines()[1].removeprefix("# ")  # a test checks that line
    parts = [
        f"# {name}",
        f"{texts['what'][0].upper()}{texts['what'][1:]}. Source: {texts['source']}.",
        f"```bash\n{command}\n```",
        "## Published",
        markdown_table(["result", "value"], texts["published"]),
        "## Measured",
        *measured_section(groups),
        "## Differences, and why",
        "\n\n".join(" ".join(part.split()) for part in texts["differences"].split("\n\n")),
        "## Settings",
        markdown_table(["setting", "value", "stated or assumed"], texts["settings"]),
        "## Loss curve",
        f"![Loss by step]({name}.png)" if groups else not_measured,
        "## Samples",
        " ".join(texts["samples"].split()),
        *(samples_section(g.first, g.label) for g in groups if g.first.samples),
        "## Runs",
        "The commands use the current keys; each run used the code of its commit."
        if groups
        else not_measured,
        *(describe_measured_run(run) for g in groups for run in g.runs),
        "Generated by `python -m gptlab.report.cards` from stored runs; do not edit.",
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(heading: list[str], rows: list[list[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def measured_section(groups: list[SeedGroup]) -> list[str]:
    """Return a table with a column for each group of runs and a row for each result they have."""
    if not groups:
        return [f"{NOT_MEASURED.capitalize()}."]
    firsts = [group.first for group in groups]
    rows = [
        ["settings", *(describe_changes(r) for r in firsts)],
        ["parameters", *(f"{r.summary['parameters']:,}" for r in firsts)],
        ["data", *(describe_data(r) for r in firsts)],
        ["steps", *(f"{r.summary['steps']:,}" for r in firsts)],
        ["tokens", *(f"{r.summary['tokens']:,}" for r in firsts)],
        ["epochs", *(f"{r.summary['epochs']:.2f}" for r in firsts)],
        ["seeds", *(", ".join(str(r.config["seed"]) for r in g.runs) for g in groups)],
    ]
    for heading, result, _ in RESULT_ROWS:
        if any(g.mean(result) is not None for g in groups):
            rows.append([heading, *(format_seed_mean(g, result) for g in groups)])
    rows.append(["time", *(describe_time(g) for g in groups)])
    rows.append(["machine", *(describe_machine(r) for r in firsts)])
    return [*describe_limits(firsts), markdown_table(["", *(g.label for g in groups)], rows)]


def describe_limits(runs: list[MeasuredRun]) -> list[str]:
    """Name what all runs reduced from the full experiment; empty if one run reduced nothing."""
    actions = []
    if all(run.changed_settings() for run in runs):
        actions.append("changed the settings in the first row")
    if all(run.has_data_sample for run in runs):
        actions.append("trained on a sample of the data")
    return [f"We {' and '.join(actions)}."] if actions else []


def describe_changes(run: MeasuredRun) -> str:
    lines = [
        f"{key}={format_setting(value)} (not {format_setting(original)})"
        for key, (value, original) in run.changed_settings().items()
    ]
    return "<br>".join(lines) or "the experiment's own"


def describe_data(run: MeasuredRun) -> str:
    corpus = run.summary["corpus"]
    splits = (f"{split['documents']:,} {name}" for name, split in corpus["splits"].items())
    repaired = "repaired" if corpus["repaired"] else "not repaired"
    return (
        f"documents: {', '.join(splits)}; vocabulary {corpus['vocabulary']:,}; broken encoding in "
        f"{corpus['mojibake']:,} places, {repaired}; held-out documents that also occur in the "
        f"training text: {corpus['duplicates_across_splits']:,}"
    )


def describe_time(group: SeedGroup) -> str:
    wall = sum(r.summary["seconds"] for r in group.runs) / len(group.runs)
    cpu = sum(r.summary["cpu_seconds"] for r in group.runs) / len(group.runs)
    each = " each" if len(group.runs) > 1 else ""
    return f"{format_duration(wall)}{each}; {format_duration(cpu)} of CPU time"


def describe_machine(run: MeasuredRun) -> str:
    machine = run.summary["machine"]
    return (
        f"{machine['device']}, {machine['threads']} of {machine['cores']} cores, "
        f"{machine['precision']}, torch {machine['torch']}"
    )


def samples_section(run: MeasuredRun, label: str) -> str:
    """Quote a run's samples: up to five of its epochs, otherwise the first and the last."""
    names = [name for name in run.samples if "epoch" in name] or list(run.samples)
    if len(names) > 5:
        names = [names[0], names[-1]]
    parts = [f"### {label}"]
    for name in names:
        text = re.sub(r"\n{3,}", "\n\n", run.samples[name].strip())
        quote = "\n".join(f"> {line}" for line in text.splitlines())
        parts.append(f"**{name.removeprefix('generated_text_').replace('_', ' ')}**\n\n{quote}")
    return "\n\n".join(parts)


def describe_measured_run(run: MeasuredRun) -> str:
    summary = run.summary
    after = summary["after"]
    target = "message" if "valid/accuracy" in after else "token"
    scored = after.get("valid/messages") or after["valid/tokens"]  # older runs count messages there
    return (
        f"`{summary['command']}`\\\nstarted {summary['began']}, commit {summary['commit']}, seed "
        f"{run.config['seed']}, {format_duration(summary['seconds'])}; scored "
        f"{summary['scored']}: {after['valid/loss']:.4f} nats per {target} on "
        f"{scored:,} held-out {target}s"
    )
