"""The command generate.py: the newest run's model goes on with a prompt.

Prompt and text go to standard output, all else to standard error, so that the text can be piped.
"""

import time
from pathlib import Path

from gptlab import runs
from gptlab.config import GenerateConfig
from gptlab.data.tokenizer import Vocabulary
from gptlab.device import resolve_accelerator
from gptlab.errors import UserError
from gptlab.files import say
from gptlab.generation.engine import TextStream, generate, prompt_ids
from gptlab.model import checkpoint


def read_prompt(config: GenerateConfig) -> str:
    """The prompt as typed, or of the file; raises UserError if it is empty or both are given."""
    if config.prompt is not None and config.prompt_file is not None:
        raise UserError("prompt and prompt_file: give one of them")
    if config.prompt_file is not None:
        try:
            prompt = Path(config.prompt_file).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UserError(f"prompt_file={config.prompt_file}: {reason}") from None
    else:
        prompt = config.prompt
    if prompt == "":
        raise UserError(
            'prompt: is empty; give some words, as in prompt="Once upon a time", or leave it out '
            "to let the model begin by itself"
        )
    return prompt or ""


def write(config: GenerateConfig) -> None:
    """Streams the text of the first sample as it comes; further ones follow, each whole."""
    text = read_prompt(config)
    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    model = checkpoint.load(runs.find_checkpoint(config.run, config.run_root))
    tokenizer = model.tokenizer
    if isinstance(tokenizer, Vocabulary):
        tokenizer.unknown = config.unknown
    prompt = prompt_ids(tokenizer, text, model.eot_first)
    context = model.net.config.window
    say(f"{model.path}, step {model.step:,}")
    if len(prompt) > context:
        say(f"the prompt has {len(prompt):,} tokens: the model sees its last {context:,}")
    elif len(prompt) + config.max_new_tokens > context:
        say(f"the model sees {context:,} tokens at once: beyond them it forgets the beginning")

    net = model.net.to(accelerator)
    began, tokens = time.perf_counter(), 0
    streams = [TextStream(tokenizer) for _ in range(config.n)]
    written = [""] * config.n
    print(text, end="", flush=True)
    steps = generate(
        net, tokenizer, prompt, config.sampling, config.n, config.max_new_tokens, config.seed
    )
    for chosen in steps:
        for sample, token in enumerate(chosen):
            if token is None:
                continue
            tokens += 1
            piece = streams[sample].add(token)
            written[sample] += piece
            if sample == 0:
                print(piece, end="", flush=True)
    print(streams[0].end())
    for sample in range(1, config.n):
        say(f"\n— sample {sample + 1} —")
        print(text + written[sample] + streams[sample].end(), flush=True)
    seconds = time.perf_counter() - began
    say(f"{tokens:,} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s")
