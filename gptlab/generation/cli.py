"""The command generate.py: generate text with a trained model.

Prompt and text go to standard output, everything else to standard error, so that the text can be
piped.
"""

import io
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from gptlab.config.schema import GenerateConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.files.decode import read_text
from gptlab.generation.engine import (
    apply_template,
    generate_samples,
    generate_steps,
    request_from_config,
    start_text,
    stop_strings,
)
from gptlab.generation.output import check_output_path, numbered_path, save_samples
from gptlab.generation.quantize import load_on_device
from gptlab.generation.sample import Sample
from gptlab.generation.terminal import make_display
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils import run_dir
from gptlab.utils.console import plural, print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError
from gptlab.utils.program import program
from gptlab.utils.system import END_OF_INPUT, enable_line_editing


def run_generate(config: GenerateConfig) -> None:
    """Generate once, or ask for prompts in a loop if started on a terminal without a prompt."""
    check_generate_config(config)
    has_prompt = config.prompt is not None or config.prompt_file is not None
    interactive = not has_prompt and is_terminal(sys.stdin) and is_terminal(sys.stdout)
    text = "" if interactive else read_prompt(config)
    # One token at a time is limited by memory, which an Apple GPU shares with the CPU.
    accelerator = resolve_accelerator(config.accelerator, "accelerator", operations=0)
    path = run_dir.find_checkpoint(config.run, config.run_root)
    model = load_on_device(path, accelerator, config.weight_dtype)
    if model.net.config.n_classes:
        raise UserError(
            f"run={config.run}: {model.path} is a classifier and cannot generate text; try "
            f'`{program("evaluate")} run={config.run} text="You won a prize"`'
        )
    if not interactive:  # validate the prompt before printing anything
        match_prompt(model.tokenizer, apply_template(config, model, text), config.unknown)
    print_status(f"{model.path}, step {model.step:,}")
    if interactive:
        interactive_loop(config, model)
    else:
        generate_and_show(config, model, text)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def check_generate_config(config: GenerateConfig) -> None:
    """Raise UserError for settings that contradict each other."""
    if config.prompt is not None and config.prompt_file is not None:
        raise UserError("prompt and prompt_file: give one of them, not both")
    best_of, num_samples = config.best_of, config.num_samples
    if best_of is not None and best_of < num_samples:
        raise UserError(f"best_of={best_of} must be at least num_samples={num_samples}")
    if best_of is not None and config.sampling.beams > 1:
        raise UserError("best_of and sampling.beams: give one of them, not both")
    if "" in stop_strings(config):
        raise UserError('stop is empty; give the text to stop at, as in stop="The end"')
    if config.save_as is not None:
        check_output_path(config.save_as)


def read_prompt(config: GenerateConfig) -> str:
    """Return the prompt as typed, from `prompt_file`, or, for `-`, from standard input.

    Raises UserError if it is empty or no text.
    """
    prompt, source = config.prompt, "standard input"
    try:
        if config.prompt_file is not None:
            source = f"prompt_file={config.prompt_file}"
            prompt = decode_prompt(Path(config.prompt_file).expanduser().read_bytes(), source)
        elif prompt == "-":
            if sys.stdin is None:
                raise UserError("prompt=-: there is no standard input")
            if is_terminal(sys.stdin):
                print_status(f"type the prompt; finish with {END_OF_INPUT} on a line of its own")
            prompt = decode_prompt(sys.stdin.buffer.read(), source)
    except (OSError, RuntimeError) as error:  # RuntimeError: an unknown home folder
        raise UserError(f"{source}: {getattr(error, 'strerror', error)}") from None
    if prompt is None:
        return ""
    if prompt != config.prompt:  # drop the newline that ends a file
        prompt = prompt.removesuffix("\n")
    check_utf8(prompt)
    if not prompt:
        raise UserError(
            'prompt is empty; type some words, as in prompt="Once upon a time", or leave the key '
            "out to let the model start by itself"
        )
    return prompt


def decode_prompt(content: bytes, source: str) -> str:
    """Decode a prompt as a text to train on: any line ends and encoding, which is announced."""
    notes: list[str] = []
    try:
        prompt = "".join(read_text(io.BytesIO(content), source, None, notes.append))
    except UserError as error:
        raise UserError(f"{str(error).partition(';')[0]}; save it as UTF-8") from None
    for note in notes:
        print_status(f"{source}: {note.partition(',')[0]}")
    return prompt


def check_utf8(prompt: str) -> None:
    """Raise UserError for a prompt with undecodable bytes, which a shell may pass."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("prompt is not UTF-8 text") from None


def interactive_loop(config: GenerateConfig, model: LoadedModel) -> None:
    """Generate for one prompt after another until the input ends; Ctrl-C stops a text.

    Each turn has its own seed and its own file name.
    """
    enable_line_editing()
    print_status(
        "type a prompt, or nothing to let the model start by itself; Ctrl-C stops a text, "
        f"{END_OF_INPUT} quits"
    )
    for turn in range(sys.maxsize):
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            print_status("prompt is not UTF-8 text")
            continue
        save_as = config.save_as and numbered_path(config.save_as, turn + 1)
        try:
            check_utf8(text)
            turn_config = replace(config, seed=config.seed + turn, save_as=save_as)
            generate_and_show(turn_config, model, text)
        except UserError as error:
            print_status(error.line())
        except KeyboardInterrupt:
            print_status("\nstopped")


def generate_and_show(config: GenerateConfig, model: LoadedModel, text: str) -> None:
    """Print the generated text while it grows, and save it if `save` is set."""
    prompt = apply_template(config, model, text)
    match = match_prompt(model.tokenizer, prompt, config.unknown)
    if match.note:
        print_status(match.note)
    ids = start_text(match.ids, model.tokenizer.eot, model.eot_first)
    request = request_from_config(config, model, ids)
    report_window(len(request.prompt_ids), config.max_new_tokens, model.net.config.window)
    start = time.perf_counter()
    # After an instruction only the response is shown.
    display = make_display(text if prompt == text and match.ids else "", config.num_samples)
    samples: list[Sample] = []
    try:
        if config.sampling.beams > 1:
            samples = generate_samples(request)
        else:
            for samples in generate_steps(request):
                if config.best_of is None:
                    display.update(samples)
    finally:  # also after Ctrl-C or a closed pipe, show and save what was generated
        seconds = time.perf_counter() - start
        for sample in samples:
            if sample.finish_reason is None:
                sample.finish("interrupted")
        best = rank_by_likelihood(samples, config)
        try:
            display.finish(best)
        finally:
            if best and config.save_as is not None:
                save_samples(config, model, prompt, best)
    if config.best_of is not None:
        nats = ", ".join(f"{-sample.mean_logprob:.3f}" for sample in best)
        total = plural(len(samples), "sample")
        print_status(f"most likely of {total}, in nats per token: {nats}")
    tokens = sum(len(sample.new_tokens) for sample in samples)
    print_status(f"{plural(tokens, 'token')}, {tokens / max(seconds, 1e-9):,.0f} tokens/s")


def report_window(prompt_length: int, max_new_tokens: int, window: int) -> None:
    """Print a note if prompt and text exceed the number of tokens that the model sees."""
    if prompt_length > window:
        print_status(
            f"the prompt has {plural(prompt_length, 'token')}; the model sees the last {window:,}"
        )
    elif prompt_length + max_new_tokens > window:
        print_status(
            f"the model sees {plural(window, 'token')} at once; each time they are full, it "
            "forgets the older half"
        )


def rank_by_likelihood(samples: list[Sample], config: GenerateConfig) -> list[Sample]:
    """Return the `num_samples` most likely of `best_of` samples."""
    if config.best_of is None or not samples:
        return samples
    ranked = sorted(samples, key=lambda sample: sample.mean_logprob, reverse=True)
    return ranked[: config.num_samples]
