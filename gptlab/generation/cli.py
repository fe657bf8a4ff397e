"""The command generate.py: the newest run's model goes on with a prompt.

Prompt and text go to standard output, all else to standard error, so that the text can be piped.
"""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from gptlab.config.schema import GenerateConfig
from gptlab.data.prompt_templates import TEMPLATES
from gptlab.data.tokenizer import VocabularyTokenizer
from gptlab.generation.beam import beam_search
from gptlab.generation.engine import encode_prompt, generate_steps
from gptlab.generation.output import check_output_path, numbered_path, save_samples
from gptlab.generation.quantize import quantize_linears
from gptlab.generation.sample import Sample
from gptlab.generation.terminal import make_display
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.hf.pretrained import load_model
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError, resolve_choice


def run_generate(config: GenerateConfig) -> None:
    """Writes once, or, at a terminal and without a prompt, as often as it is asked."""
    check_settings(config)
    nothing = config.prompt is None and config.prompt_file is None
    asks = nothing and at_terminal(sys.stdin) and at_terminal(sys.stdout)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter
    text = "" if asks else read_prompt(config)
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    model = load_model(run_dir.find_checkpoint(config.run, config.run_root))
    if model.net.config.n_classes:
        raise UserError(
            f"run={config.run}: {model.path} tells classes apart and cannot write; try "
            f'`python -m gptlab.evaluate run={config.run} text="You won a prize"`'
        )
    if isinstance(model.tokenizer, VocabularyTokenizer):
        model.tokenizer.unknown = config.unknown
    quantize_linears(model.net.to(accelerator), config.weights)
    if not asks:
        # A mistake in it is all that is said.
        encode_prompt(model.tokenizer, apply_template(config, model, text), model.eot_first)
    print_status(f"{model.path}, step {model.step:,}")
    if asks:
        interactive_loop(config, model)
    else:
        generate_and_show(config, model, text)


def at_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def check_settings(config: GenerateConfig) -> None:
    """Raises UserError for settings that contradict each other."""
    if config.prompt is not None and config.prompt_file is not None:
        raise UserError("prompt and prompt_file: give one of them")
    if config.best_of is not None and config.best_of < config.num_samples:
        raise UserError(
            f"best_of={config.best_of}: must be at least num_samples={config.num_samples}"
        )
    if config.best_of is not None and config.sampling.beams > 1:
        raise UserError("best_of and sampling.beams: give one of them")
    if any(stop == "" for stop in stop_texts(config)):
        raise UserError('stop: is empty; give the text to stop at, as in stop="The end"')
    if config.save is not None:
        check_output_path(config.save)


def stop_texts(config: GenerateConfig) -> list[str]:
    """`stop` as a list: it may be one text, several, or none.

    Raises UserError for anything else.
    """
    stop = config.stop
    texts = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if not all(isinstance(text, str | int | float) for text in texts):
        raise UserError(f'stop={stop}: must be a text or a list of texts, as in stop="The end"')
    return [str(text) for text in texts]


def read_prompt(config: GenerateConfig) -> str:
    """The prompt as typed, of the file, or, for `-`, from standard input.

    Raises UserError if it is empty.
    """
    prompt = config.prompt
    if config.prompt_file is not None:
        try:
            prompt = Path(config.prompt_file).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UserError(f"prompt_file={config.prompt_file}: {reason}") from None
    elif prompt == "-":
        if sys.stdin is None:
            raise UserError("prompt=-: there is no standard input")
        if at_terminal(sys.stdin):
            print_status("type how the text begins; Ctrl-D on a line of its own ends it")
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError("prompt=-: standard input is not UTF-8 text") from None
    if prompt is not None and prompt != config.prompt:  # a file's last line ends, the text goes on
        prompt = prompt.removesuffix("\n").removesuffix("\r")
    check_text(prompt or "")
    if prompt == "":
        raise UserError(
            'prompt: is empty; give some words, as in prompt="Once upon a time", or leave it out '
            "to let the model begin by itself"
        )
    return prompt or ""


def check_text(prompt: str) -> None:
    """Raises UserError for bytes that are no text, as a shell may pass them."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("prompt: is not UTF-8 text") from None


def interactive_loop(config: GenerateConfig, model: LoadedModel) -> None:
    """Prompt after prompt, until the end of the input. Ctrl-C stops a text.

    Each has a seed of its own, and is saved under a number of its own.
    """
    with contextlib.suppress(ImportError):  # gives input() a history and the arrow keys
        import readline  # noqa: F401

    print_status(
        "type how a text begins; an empty line lets the model begin; Ctrl-C stops it, Ctrl-D ends"
    )
    for turn in range(sys.maxsize):
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            print_status("that was not UTF-8 text")
            continue
        name = config.save and numbered_path(config.save, turn + 1)
        try:
            check_text(text)
            generate_and_show(replace(config, seed=config.seed + turn, save=name), model, text)
        except UserError as error:
            print_status(error.line())
        except KeyboardInterrupt:
            print_status("\nstopped")


def generate_and_show(config: GenerateConfig, model: LoadedModel, text: str) -> None:
    """Shows what the model makes of the text, and saves it where that is asked for."""
    read = apply_template(config, model, text)
    prompt = encode_prompt(model.tokenizer, read, model.eot_first)
    window = model.net.config.window
    if len(prompt) > window:
        print_status(f"the prompt has {len(prompt):,} tokens: the model sees its last {window:,}")
    elif len(prompt) + config.max_new_tokens > window:
        print_status(
            f"the model sees {window:,} tokens at once: whenever they are full, it forgets the "
            "older half"
        )
    began = time.perf_counter()
    display = make_display(
        text if read == text else "", config.num_samples
    )  # or the response alone
    samples: list[Sample] = []
    try:
        for samples in generate_stream(config, model, prompt):
            if config.best_of is None:
                display.update(samples)
    finally:  # whatever stopped it, a reader who left included: what there is, is shown and kept
        seconds = time.perf_counter() - began
        for sample in samples:
            if sample.ended is None:
                sample.end("interrupted")
        best = rank_by_likelihood(samples, config)
        try:
            display.end(best)
        finally:
            if best and config.save is not None:
                save_samples(config, model, read, best)
    tokens = sum(len(sample.written) for sample in samples)
    print_status(f"{tokens:,} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s")


def apply_template(config: GenerateConfig, model: LoadedModel, text: str) -> str:
    """What the model reads: the text, or, as an instruction, within its template.

    Raises UserError for a template that there is not, or none for an input.
    """
    name = config.template
    if name == "auto":
        data = model.config["data"]
        name = str(data.get("template")) if data.get("task") == "instructions" else "none"
    template = resolve_choice("template", name, {"none": None, **TEMPLATES, "auto": None})
    if config.input is not None and (template is None or not text):
        raise UserError("input: belongs to an instruction: prompt=INSTRUCTION template=alpaca")
    return template(text, config.input or "") if template and text else text


def rank_by_likelihood(samples: list[Sample], config: GenerateConfig) -> list[Sample]:
    """Of `best_of` samples the n likeliest."""
    if config.best_of is None or not samples:
        return samples
    best = sorted(samples, key=lambda sample: sample.likelihood, reverse=True)[: config.num_samples]
    costs = ", ".join(f"{-sample.likelihood:.3f}" for sample in best)
    print_status(f"the likeliest of {len(samples)}, in nats a token: {costs}")
    return best


def generate_stream(
    config: GenerateConfig, model: LoadedModel, prompt: list[int]
) -> Iterator[list[Sample]]:
    """The samples as they grow; of a beam search only in the end."""
    wanted = (model.net, model.tokenizer, prompt, config.sampling)
    stop = stop_texts(config)
    if config.sampling.beams > 1:
        settings = {"stop": stop, "cached": config.cache}
        yield beam_search(*wanted, config.num_samples, config.max_new_tokens, **settings)
        return
    n = config.best_of or config.num_samples
    scored = config.best_of is not None or config.save is not None
    settings = {"stop": stop, "cached": config.cache, "scored": scored}
    yield from generate_steps(*wanted, n, config.max_new_tokens, config.seed, **settings)
