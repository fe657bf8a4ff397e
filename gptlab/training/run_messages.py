"""Format the lines that a run prints: its plan and its results."""

import contextlib
import re
from pathlib import Path

import torch

from gptlab.config.cli import describe_choice
from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.evaluation.eval_context import Results
from gptlab.evaluation.results_store import format_results
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.preflight import PreflightReport
from gptlab.training.run_plan import RunPlan, TrainingSetup
from gptlab.training.run_summary import RunSummary
from gptlab.utils import run_dir
from gptlab.utils.console import format_duration, plural
from gptlab.utils.device import available_memory
from gptlab.utils.errors import UserError
from gptlab.utils.program import command_line, program
from gptlab.utils.system import shell_quote


def short_number(number: float) -> str:
    """Format 1234567 as `1.2M`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def opening_lines(setup: TrainingSetup, report: PreflightReport, folder: Path | None) -> str:
    """Describe the run, one fact per line.

    Shows the failed checks, or all of them in a preflight without a run, where `folder` is None.
    """
    plan, seconds = setup.plan, report.seconds_per_step * (setup.plan.steps - setup.done_steps)
    available = available_memory(plan.accelerator)
    of_available = f" of {gigabytes(available)} available" if available else ""
    lines = {
        "model": describe_model(plan, setup.net),
        "data": describe_corpus(setup.corpus),
        **({"files": f"\n{'':13}".join(read)} if (read := setup.corpus.meta.get("read")) else {}),
        **({"weights": f"from {plan.initial_checkpoint}"} if plan.initial_checkpoint else {}),
        "steps": describe_steps(setup),
        "optimizer": describe_optimizer(setup.config),
        "device": describe_device(plan),
        "memory": f"about {gigabytes(report.memory)}{of_available}",
        "time": f"about {format_duration(seconds)}",
        **({"run folder": str(folder)} if folder else {}),
    }
    text = [f"  {name:<10} {value}" for name, value in lines.items()]
    text += [f"  {'note':<10} {note}" for note in plan.notes]
    if plan.model.let_attention_see_the_future:
        text.append("  WARNING    attention sees the future: this model cheats, as a demonstration")
    text += [str(check) for check in report.checks if folder is None or not check.passed]
    return "\n".join(["training" if folder else "preflight", *text, ""])


def describe_optimizer(config: TrainConfig) -> str:
    """Name optimizer, schedule, rate, and the group that chose them, such as a model."""
    optim, origin = config.optim, "" if config.resume else describe_choice("optim")
    suffix = f" (optim={origin})" if origin else ""
    return f"{optim.name}, {optim.schedule} schedule, learning rate {optim.lr:g}{suffix}"


def describe_model(plan: RunPlan, net: GPT) -> str:
    model, total = plan.model, sum(parameter.numel() for parameter in net.parameters())
    trained = count_parameters(net)
    frozen = f" ({trained:,} trained)" if trained < total else ""
    return (
        f"{total:,} parameters{frozen}: {plural(model.n_layer, 'layer')}, "
        f"{plural(model.n_head, 'head')}, width {model.d_model}, context {model.context_length}; "
        f"{model.norm}-norm, {model.position} positions, {model.feed_forward}"
    )


def describe_corpus(corpus: Corpus) -> str:
    held_out, train = dict(corpus.splits), corpus.splits["train"]
    del held_out["train"]
    counts = ", ".join(f"{split.documents:,} {name}" for name, split in held_out.items())
    return (
        f"{corpus.folder.name}: {plural(train.documents, 'document')}, "
        f"{short_number(train.tokens)} tokens (vocabulary {corpus.tokenizer.vocab_size:,}); "
        f"held out: {counts} ({corpus.meta['split_rule']})"
    )


def describe_steps(setup: TrainingSetup) -> str:
    plan, total = setup.plan, float(setup.plan.steps * setup.plan.tokens_per_step)
    if setup.config.data.batching == "rows":  # documents are padded: count the corpus's tokens
        total = min(total, plan.epochs(plan.steps) * setup.corpus.splits["train"].tokens)
    resuming = f"; resuming after step {setup.done_steps:,}" if setup.done_steps else ""
    return (
        f"{plan.steps:,} of {describe_batch(plan)} = {short_number(total)} tokens = "
        f"{plan.epochs(plan.steps):.3g} passes over the data{resuming}"
    )


def describe_batch(plan: RunPlan) -> str:
    shape = plan.shape
    text = plural(shape.batch_size, "record")
    if not plan.variable_length:
        text = f"{shape.batch_size} × {plural(plan.row_tokens, 'token')}"
    text += f" × {shape.accumulate} accumulated" if shape.accumulate > 1 else ""
    return text + (f" × {shape.world_size} devices" if shape.world_size > 1 else "")


COMPILE_SUFFIX = {
    "false": "",
    "model": ", compiled model",
    "step": ", compiled step (forward and backward as one graph; off: trainer.compile=false)",
}


def describe_device(plan: RunPlan) -> str:
    name = f"{plan.accelerator.upper()} × {plan.shape.world_size}"
    if plan.accelerator == "cpu":
        name = f"CPU, {plural(torch.get_num_threads(), 'thread')}"
    return f"{name}, {plan.precision}{COMPILE_SUFFIX[plan.compile]}"


def closing_lines(
    config: TrainConfig,
    folder: Path,
    summary: RunSummary,
    stories: int,
    example: str,
    plugins: list[str],
) -> str:
    """Format the results of a run, its files, and the two commands to type next.

    `stories`: held-out documents. `example`: a message to classify. `plugins`: the argument that
    the next command needs, if any.
    """
    after = summary.after
    lines = [f"done in {format_duration(summary.seconds)}", *result_lines(after)]
    if (best_possible := after.get("valid/best_possible")) is not None:
        loss, per_story = after["valid/loss"], after["valid/tokens"] / stories
        lines.append(
            f"  best possible loss {best_possible:.4f} nats/token: this model has "
            f"{loss / best_possible:.3f} times that ({loss * per_story:.1f} against "
            f"{best_possible * per_story:.1f} nats per story)"
        )
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))
    lines += [
        f"  run folder    {folder}",
        f"  checkpoints   {', '.join(checkpoints)} in {folder / 'checkpoints'}",
        f"  samples       {folder / 'samples'}",
        "next",
        next_command(config, folder, example, plugins),
    ]
    if "tensorboard" in config.logger:
        lines.append(f"  tensorboard --logdir {shell_quote(str(folder.parent))}")
    return "\n".join(lines)


TEXT_RESULTS = (
    "perplexity {perplexity:.4g}, {bits_per_byte:.3f} bits/byte, loss {loss:.4f} nats/token "
    "({tokens:,} tokens)"
)
SPAN_RESULTS = (
    "verbatim from the training text: longest span {longest} tokens, mean {mean_longest:.1f}, "
    "{10_grams:.1%} of all 10-grams"
)
# Suites and splits with a line of their own: its label and template; others print a table.
RESULT_LINES = {
    "valid": ("validation", TEXT_RESULTS),
    "last": ("last step", TEXT_RESULTS),
    "test": ("test", TEXT_RESULTS),
    "estimate": ("estimate", TEXT_RESULTS),
    "windows": ("training text", TEXT_RESULTS),
    "responses": (
        "responses",
        "ROUGE-L {rouge_l:.4f} on {n} test instructions (against shuffled answers "
        "{rouge_l_shuffled:.4f})",
    ),
    "hellaswag": (
        "hellaswag",
        "{acc_norm:.2%} correct by mean loss, {acc:.2%} by summed loss, of {n:,} questions "
        "(chance 25 %, standard error {standard_error:.2%})",
    ),
    "memorisation": ("memorisation", SPAN_RESULTS),
    "memorisation_held_out": ("held-out text", SPAN_RESULTS),
}
EXACT_RESULTS = "; exact match on {exact:.1%} of the {exact_n} short answers"


def result_lines(after: Results) -> list[str]:
    """Format a line for each suite or split of RESULT_LINES, and a table for every other suite."""
    lines = []
    for suite, (label, template) in RESULT_LINES.items():
        prefix = f"{suite}/"
        if metrics := {k.removeprefix(prefix): after[k] for k in after if k.startswith(prefix)}:
            template += EXACT_RESULTS if "exact" in metrics else ""
            classes = "accuracy" in metrics
            text = describe_class_results(metrics) if classes else template.format(**metrics)
            lines.append(f"  {label:<13} {text}")
    if lines:  # explain the unit once
        lines[0] = re.sub(r"(nats/\w+) \(", r"\1 (natural-log units; ", lines[0])
    others: dict[str, Results] = {}
    for name in after:
        prefix = name.partition("/")[0]
        if prefix not in RESULT_LINES:  # NAME_held_out is a column of NAME's table
            suite = next((suite for suite in others if prefix.startswith(f"{suite}_")), prefix)
            others.setdefault(suite, {})[name] = after[name]
    tables = [format_results(suite, results) for suite, results in others.items()]
    return lines + [f"  {line}" for table in tables for line in table]


def describe_class_results(metrics: Results) -> str:
    """Format accuracy, F1, loss and the three most frequent confusions."""
    wrong = [key for key in metrics if "_as_" in key and not re.fullmatch(r"(.*)_as_\1", key)]
    confusions = []
    for key in sorted(wrong, key=lambda key: -metrics[key])[:3]:
        label, _, predicted = key.partition("_as_")
        confusions.append(f"{metrics[key]:.0f} '{label}' classified as '{predicted}'")
    return (
        f"accuracy {metrics['accuracy']:.2%} (standard error "
        f"{metrics['accuracy_standard_error']:.2%}), F1 {metrics['f1']:.4f}, loss "
        f"{metrics['loss']:.4f} nats/message ({plural(int(metrics['messages']), 'message')}): "
        f"{', '.join(confusions)}"
    )


def next_command(config: TrainConfig, folder: Path, example: str, plugins: list[str]) -> str:
    """Return a command that uses the trained model."""
    if config.data.task == "classification":
        words = [command_line("evaluate", f"text={example}")]
    else:
        words = [program("generate")]
        if config.prompt:
            words.append(f"prompt={shell_quote(config.prompt)}")
    return "  " + " ".join([*words, *arguments_to_find(config, folder), *plugins])


def arguments_to_find(config: TrainConfig, folder: Path) -> list[str]:
    """Return the arguments that other commands need to find this run; none if it is the latest."""
    with contextlib.suppress(UserError):  # the run was resumed from outside of the run root
        root = Path(config.run_root).expanduser()
        if run_dir.latest_checkpoint(root).parent.parent.resolve() == folder.resolve():
            return [] if config.run_root == "runs" else [shell_quote(f"run_root={root}")]
    return [shell_quote(f"run={folder}")]
