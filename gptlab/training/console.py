"""The words of a run: what it is about to do, and what came of it."""

import re
import shlex
from pathlib import Path

import torch

from gptlab.config.schema import TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.model.gpt import GPT, count_parameters
from gptlab.training.callbacks.progress_bar import format_duration
from gptlab.training.preflight import PreflightReport
from gptlab.training.run_plan import RunPlan
from gptlab.training.run_summary import RunSummary
from gptlab.utils.device import available_memory


def short_number(number: float) -> str:
    """1234567 as `1.2M`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def document_count(count: int) -> str:
    return f"{count:,} document" + ("s" if count != 1 else "")


def opening_lines(
    config: TrainConfig,
    plan: RunPlan,
    corpus: Corpus,
    net: GPT,
    report: PreflightReport,
    folder: Path | None,
    done: int,
) -> str:
    """What the run will do, a line for each thing; `done` steps are behind it.

    Of the checks only those that ask for a look, but all where nothing but them was asked for.
    """
    model, optim = plan.model, config.optim
    splits = corpus.splits
    held = ", ".join(f"{s.documents:,} {n}" for n, s in splits.items() if n != "train")
    total = plan.steps * plan.tokens_per_step
    # Rows of documents are padded: the tokens that count are about the corpus's own, pass by pass.
    if config.data.batching == "rows":
        total = min(total, plan.epochs * splits["train"].tokens)
    device = {"cpu": f"CPU, {torch.get_num_threads()} threads"}.get(plan.accelerator)
    device = device or f"{plan.accelerator.upper()} × {plan.shape.world_size}"
    lines = {
        "model": f"{describe_parameters(net)}: {model.n_layer} layers, {model.n_head} "
        f"heads, width {model.d_model}, context {model.context_length}; {model.norm}-norm, "
        f"{model.position} positions, {model.feed_forward}",
        "data": f"{corpus.folder.name}: {document_count(splits['train'].documents)}, "
        f"{short_number(splits['train'].tokens)} tokens "
        f"(vocabulary {corpus.tokenizer.vocab_size:,}); "
        f"held out: {held} ({corpus.meta['split_rule']})",
        **({"weights": f"begins with {plan.origin}"} if plan.origin else {}),
        "steps": f"{plan.steps:,} of {describe_batch(plan)} = {short_number(total)} tokens = "
        f"{plan.epochs:.3g} passes over the data"
        + (f"; goes on after step {done:,}" if done else ""),
        "optimizer": f"{optim.name}, {optim.schedule} rate {optim.lr:g}",
        "device": f"{device}, {plan.precision}" + COMPILE_SUFFIX[plan.compile],
        "memory": f"about {gigabytes(report.memory)}" + available_words(plan.accelerator),
        "time": f"about {format_duration(report.seconds * (plan.steps - done))}",
    }
    if folder:
        lines["stored in"] = str(folder)
    told = [f"  {name:<10} {text}" for name, text in lines.items()]
    told += [f"  {'note':<10} {note}" for note in plan.notes]
    if model.let_attention_see_the_future:
        told.append("  WARNING    attention sees the future: this model cheats, as a demonstration")
    checks = [str(check) for check in report.checks if folder is None or not check.good]
    return "\n".join(["training" if folder else "preflight", *told, *checks, ""])


def describe_parameters(net: GPT) -> str:
    total = sum(parameter.numel() for parameter in net.parameters())
    trained = count_parameters(net)
    rest = f", {trained:,} of them trained" if trained < total else ""
    return f"{total:,} parameters{rest}"


COMPILE_SUFFIX = {
    "false": "",
    "model": ", compiled",
    "step": ", forward and backward compiled as one graph (trainer.compile=false: not)",
}


def describe_batch(plan: RunPlan) -> str:
    shape = plan.shape
    rows = f"{shape.batch_size} × {plan.row_tokens} tokens"
    words = [f"{shape.batch_size} records" if plan.varying else rows]
    words += [f"{shape.accumulate} accumulated"] if shape.accumulate > 1 else []
    words += [f"{shape.world_size} devices"] if shape.world_size > 1 else []
    return " × ".join(words)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def available_words(device: str) -> str:
    there = available_memory(device)
    return f" of {gigabytes(there)} to be had" if there else ""


def closing_lines(
    config: TrainConfig,
    folder: Path,
    summary: RunSummary,
    stories: int,
    example: str,
) -> str:
    """What came of the run, and the two commands to type next; `example` is a held-out message."""
    after = summary.after
    loss, tokens = after["valid/loss"], after["valid/tokens"]
    lines = [f"done in {format_duration(summary.seconds)}", *figure_lines(after)]
    if (best_possible := after.get("valid/best_possible")) is not None:
        per_story = tokens / stories
        lines.append(
            f"  best possible loss {best_possible:.4f}: this model is at "
            f"{loss / best_possible:.3f} times it ({loss * per_story:.1f} against "
            f"{best_possible * per_story:.1f} nats a story, from the first token to the end)"
        )
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))
    lines += [
        f"  run           {folder}",
        f"  checkpoints   {', '.join(checkpoints)} in {folder / 'checkpoints'}",
        f"  samples       {folder / 'samples'}",
        "next",
        next_command(config, example),
        f"  tensorboard --logdir {shlex.quote(config.run_root)}",
    ]
    return "\n".join(lines)


SPLIT_NAMES = {
    "valid": "validation",
    "last": "last step",
    "test": "test",
    "estimate": "estimate",
    "windows": "own windows",
}


def figure_lines(after: dict[str, float]) -> list[str]:
    """A line for each part of the held-out text, and for each suite."""
    lines = []
    for name, words in SPLIT_NAMES.items():
        if f"{name}/loss" in after:
            of = {key.partition("/")[2]: v for key, v in after.items() if key.startswith(name)}
            told = describe_class_results(of) if "accuracy" in of else describe_text_results(of)
            lines.append(f"  {words:<13} loss {of['loss']:.4f} nats {told}")
    if "responses/n" in after:
        lines.append(f"  {'responses':<13} {describe_responses(after)}")
    if "hellaswag/n" in after:
        lines.append(
            f"  {'hellaswag':<13} {after['hellaswag/acc_norm']:.2%} right by the mean loss, "
            f"{after['hellaswag/acc']:.2%} by the sum, of {after['hellaswag/n']:,} (chance 25 %, "
            f"standard error {after['hellaswag/standard_error']:.2%})"
        )
    if "memorisation/longest" in after:
        for name, words in (("", "writes"), ("_held_out", "real text")):
            longest, mean, grams = (
                after[f"memorisation{name}/{figure}"]
                for figure in ("longest", "mean_longest", "10_grams")
            )
            lines.append(
                f"  {words:<13} verbatim from the training text: {longest} tokens at the longest, "
                f"{mean:.1f} on average, {grams:.1%} of all runs of ten"
            )
    return lines


def describe_text_results(of: dict[str, float]) -> str:
    return (
        f"a token, perplexity {of['perplexity']:.4g}, {of['bits_per_byte']:.3f} bits a byte "
        f"({of['tokens']:,} tokens)"
    )


def describe_class_results(of: dict[str, float]) -> str:
    """With the commonest confusions, of two classes all."""
    wrong = [
        (count, key.split("_as_", 1))
        for key, count in of.items()
        if "_as_" in key and not re.fullmatch(r"(.*)_as_\1", key)
    ]
    wrong = sorted(wrong, key=lambda item: -item[0])[:3]
    told = ", ".join(f"{count:.0f} '{true}' taken for '{said}'" for count, (true, said) in wrong)
    return (
        f"a message, accuracy {of['accuracy']:.2%}, F1 {of['f1']:.4f} of {of['tokens']:,} "
        f"messages: {told}"
    )


def describe_responses(after: dict[str, float]) -> str:
    told = (
        f"ROUGE-L {after['responses/rouge_l']:.4f} to {after['responses/n']} test instructions "
        f"(to each other's answers {after['responses/rouge_l_shuffled']:.4f})"
    )
    if "responses/exact" in after:
        told += (
            f"; {after['responses/exact']:.1%} of the {after['responses/exact_n']} short answers "
            "to the letter"
        )
    return told


def next_command(config: TrainConfig, example: str) -> str:
    if config.data.task == "classification":
        text = shlex.quote(f"text={example}")
        words = [f"  python -m gptlab.evaluate {text}", *place_arguments(config)]
    else:
        words = ["  python generate.py", *generate_arguments(config)]
    return " ".join(words)


def generate_arguments(config: TrainConfig) -> list[str]:
    plain = config.prompt and re.fullmatch(r"[\w ,.!?]+", config.prompt)
    quoted = f'"{config.prompt}"' if plain else shlex.quote(config.prompt or "")
    words = [f"prompt={quoted}"] if config.prompt else []
    return words + place_arguments(config)


def place_arguments(config: TrainConfig) -> list[str]:
    return [f"run_root={shlex.quote(config.run_root)}"] if config.run_root != "runs" else []
