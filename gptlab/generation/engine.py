"""Generate text token by token, several samples at once."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from gptlab.config.schema import GenerateConfig, TrainConfig
from gptlab.data.corpus import Corpus
from gptlab.data.prompt_matching import match_prompt
from gptlab.data.prompt_templates import PROMPT_TEMPLATES
from gptlab.data.tokenizer import Tokenizer
from gptlab.generation.beam import beam_steps
from gptlab.generation.context_window import next_logits, open_context
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.generation.sampling import candidate_probabilities, sample_columns
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.console import print_status
from gptlab.utils.errors import UserError
from gptlab.utils.hashing import derive_seed
from gptlab.utils.plugins import resolve_choice


def encode_prompt(
    tokenizer: Tokenizer, prompt: str, eot_first: bool, unknown: str = "error"
) -> list[int]:
    """Encode a prompt; an empty one becomes end-of-text, after which a new text starts.

    Words that are not in the vocabulary raise UserError, or are skipped with `unknown=skip`.
    """
    return start_text(match_prompt(tokenizer, prompt, unknown).ids, tokenizer.eot, eot_first)


def start_text(ids: list[int], eot: int, eot_first: bool) -> list[int]:
    """Put end-of-text before a prompt where a text needs it."""
    return [eot, *ids] if eot_first or not ids else ids


def training_prompt(config: TrainConfig, corpus: Corpus) -> list[int]:
    """Return the prompt ids for the samples of a training run.

    Without `prompt`: the first ten validation tokens, or the first validation instruction.
    """
    data, eot = config.data, corpus.tokenizer.eot
    if config.prompt is None:
        length = int(corpus.prompt_lengths("valid")[0]) if data.task == "instructions" else 10
        ids = [token for token in corpus.tokens("valid")[:length].tolist() if token != eot]
        return start_text(ids, eot, data.eot_first)
    prompt = config.prompt
    if data.task == "instructions":
        prompt = resolve_choice("data.template", data.template, PROMPT_TEMPLATES)(prompt, "")
    match = match_prompt(corpus.tokenizer, prompt)
    if match.note:
        print_status(f"prompt: {match.note}")
    return start_text(match.ids, eot, data.eot_first)


def drop_preset_prompt(config: TrainConfig, corpus: Corpus) -> TrainConfig:
    """Drop the prompt of a data preset if the user's own text, used instead, lacks its words."""
    if config.data.path is None or config.prompt is None or config.prompt != config.data.prompt:
        return config
    fits = not match_prompt(corpus.tokenizer, config.prompt).note
    return config if fits else replace(config, prompt=None)


def apply_template(config: GenerateConfig, model: LoadedModel, text: str) -> str:
    """Wrap an instruction in the prompt template that the model was finetuned with.

    Raises UserError for an unknown template, or an `input` without an instruction.
    """
    name = config.template
    if name == "auto":
        data = model.config["data"]
        name = str(data.get("template")) if data.get("task") == "instructions" else "none"
    template = None if name == "none" else resolve_choice("template", name, PROMPT_TEMPLATES)
    if config.input is not None and (template is None or not text):
        raise UserError("input needs an instruction: prompt=INSTRUCTION template=alpaca")
    return template(text, config.input or "") if template and text else text


def stop_strings(config: GenerateConfig) -> list[str]:
    """Return `stop`, which may be null, one text or a list, as a list.

    Raises UserError for anything else.
    """
    stop = config.stop
    texts = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if not all(isinstance(text, str | int | float) for text in texts):
        raise UserError(f'stop={stop} must be a text or a list of texts, as in stop="The end"')
    return [str(text) for text in texts]


def request_from_config(
    config: GenerateConfig, model: LoadedModel, prompt: str | list[int]
) -> GenerationRequest:
    """Build the request of a command; `prompt` is text (after its template) or token ids."""
    if isinstance(prompt, str):
        prompt = encode_prompt(model.tokenizer, prompt, model.eot_first, config.unknown)
    return GenerationRequest(
        *(model.net, model.tokenizer, prompt, config.sampling),
        num_samples=config.best_of or config.num_samples,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        stop=stop_strings(config),
        logprobs=config.best_of is not None or config.save_as is not None,
        use_cache=config.kv_cache,
    )


def generate_samples(request: GenerationRequest, progress_label: str | None = None) -> list[Sample]:
    """Generate and return the finished samples, for beam search the best first.

    On a terminal, `progress_label` names a progress bar that counts tokens.
    """
    steps = beam_steps(request) if request.sampling.beams > 1 else generate_steps(request)
    disable = None if progress_label else True  # None: disable unless on a terminal
    *_, samples = tqdm(steps, desc=progress_label, unit=" tokens", disable=disable, leave=False)
    return samples


@torch.inference_mode()
def generate_steps(request: GenerationRequest) -> Iterator[list[Sample]]:
    """Sample from the model and yield all samples after each step.

    Each sample draws from its own random generator, so its text is independent of the other samples
    in the batch. Raises UserError if the model diverged in training.
    """
    eot, last_step = request.tokenizer.eot, request.max_new_tokens - 1
    numbers = range(request.num_samples)
    generators = [torch.Generator().manual_seed(derive_seed(request.seed, i)) for i in numbers]
    samples = [request.new_sample() for _ in numbers]
    active = list(numbers)  # unfinished samples, one row of the context each
    with open_context(request) as context:
        logits_BxV = next_logits(context, request.tokenizer.vocab_size)
        logits_BxV = logits_BxV.expand(request.num_samples, -1)
        context.select([0] * request.num_samples)  # the prompt is read once for all samples
        for step in range(request.max_new_tokens):
            if step:
                logits_BxV = next_logits(context, request.tokenizer.vocab_size)
            token_ids = [samples[i].tokens for i in active]
            probs_BxC, ids_BxC = candidate_probabilities(logits_BxV, request.sampling, token_ids)
            columns = sample_columns(probs_BxC, [generators[i] for i in active])
            tokens = [int(ids_BxC[row, column]) for row, column in enumerate(columns)]
            if request.logprobs:
                batch = [samples[i] for i in active]
                record_logprobs(batch, logits_BxV, tokens, request.top_logprobs)
            for i, token in zip(active, tokens, strict=True):
                samples[i].append(token, eot, is_last=step == last_step)
            yield samples
            rows = [row for row, i in enumerate(active) if samples[i].finish_reason is None]
            if not rows:
                return
            active = [active[row] for row in rows]
            context.select(rows)
            context.append([tokens[row] for row in rows])


def record_logprobs(
    samples: list[Sample], logits_BxV: Tensor, tokens: list[int], top_logprobs: int
) -> None:
    """Append each new token's log-probability, and those of the most likely tokens if requested."""
    logits_BxV = logits_BxV.float()
    total_B = logits_BxV.logsumexp(dim=-1)
    for row, (sample, token) in enumerate(zip(samples, tokens, strict=True)):
        sample.logprobs.append(float(logits_BxV[row, token] - total_B[row]))
    if not top_logprobs:
        return
    top = logits_BxV.topk(min(top_logprobs, logits_BxV.shape[-1]))
    logprobs_BxK = (top.values - total_B[:, None]).tolist()
    for sample, ids, logprobs in zip(samples, top.indices.tolist(), logprobs_BxK, strict=True):
        sample.top_logprobs.append(list(zip(ids, logprobs, strict=True)))
