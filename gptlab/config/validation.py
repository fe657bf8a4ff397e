"""Which values can work at all: refused otherwise, before anything is built.

What depends on the data or the machine is checked where these are known
(gptlab/training/run_plan.py, gptlab/training/checks.py).
"""

import ipaddress
import math
import re
from typing import Any

from gptlab.config.schema import AppConfig, TrainConfig, flatten
from gptlab.utils.errors import UserError

# (key, lowest, highest); None is open. A value outside is refused before anything is built.
BOUNDS: list[tuple[str, float | None, float | None]] = [
    ("model.n_layer", 1, None),
    ("model.n_head", 1, None),
    ("model.d_model", 1, None),
    ("model.d_ff", 1, None),
    ("model.context_length", 1, None),
    ("model.vocab_size", 1, None),
    ("model.n_classes", 2, 10_000),
    ("finetune.layer_decay", 1e-3, 1),
    ("finetune.lora_rank", 1, None),
    ("finetune.lora_alpha", 0, None),
    ("model.dropout", 0, 0.99),
    ("model.attention_dropout", 0, 0.99),
    ("model.init_std", 0, None),
    ("tokenizer.max_words", 1, None),
    ("data.max_samples", 2, None),
    ("data.max_tokens", 1, None),
    ("data.subset", 1e-9, 1),
    ("data.split", 0, 0.9),
    ("data.test_split", 0, 0.9),
    ("data.batch_size", 1, None),
    ("data.stride", 1, None),
    ("data.row_length", 2, None),
    ("data.valid_tokens", 1, None),
    ("data.final_tokens", 1, None),
    ("hellaswag.rows", 1, None),
    ("hellaswag.batch_size", 1, None),
    ("data.max_steps", 1, None),
    ("data.num_workers", 0, None),
    ("optim.lr", 0, None),
    ("optim.eps", 0, None),
    ("optim.momentum", 0, 1),
    ("optim.weight_decay", 0, None),
    ("optim.grad_clip", 0, None),
    ("optim.warmup_steps", 0, None),
    ("optim.min_lr", 0, None),
    ("optim.cooldown", 0, 1),
    ("trainer.max_steps", 1, None),
    ("trainer.max_epochs", 1e-9, None),
    ("trainer.accumulate_grad_batches", 1, None),
    ("trainer.tokens_per_step", 1, None),
    ("trainer.eval_every", 0, None),
    ("trainer.checkpoint_every", 0, None),
    ("trainer.sample_every", 0, None),
    ("trainer.log_every", 1, None),
    ("trainer.checkpoint_seconds", 0, None),
    ("trainer.threads", 1, None),
    ("trainer.devices", 1, None),
    ("trainer.num_nodes", 1, None),
    ("sampling.temperature", 0, 1e4),
    ("sampling.top_k", 1, None),
    ("sampling.top_p", 1e-9, 1),
    ("sampling.min_p", 0, 1),
    ("sampling.repetition_penalty", 1e-3, None),
    ("sampling.no_repeat_ngram", 1, None),
    ("sampling.beams", 1, None),
    ("sampling.length_penalty", -10, 10),
    ("num_samples", 1, None),
    ("stride", 1, None),
    ("batch_size", 1, None),
    ("max_tokens", 1, None),
    ("best_of", 1, None),
    ("max_new_tokens", 1, None),
    ("seed", 0, 2**63 - 1),
    ("port", 0, 65535),
    ("max_queue", 0, 1000),
    ("max_models", 1, 100),
]

# Names that no table of code holds (those are looked up where the table is).
CHOICES: dict[str, tuple[str, ...]] = {
    "tokenizer.unknown": ("error", "skip"),
    "unknown": ("error", "skip"),
    "preflight": ("auto", "only"),
    "weights": ("float32", "bfloat16", "int8"),
    "data.task": ("text", "classification", "instructions"),
    "data.loss_on": ("response", "all"),
    "data.documents": ("auto", "line", "file"),
    "data.split_by": ("random", "tail"),
    "data.batching": ("rows", "random", "sliding"),
    "optim.decay": ("matrices", "all"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "precision": ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"),
}


def validate_config(config: Any) -> None:
    """Raises UserError for a value that can never work, whatever the data and the machine."""
    flat = flatten(config)
    for key, value in flat.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
            raise UserError(f"{key}={value}: not a finite number")
    for key, low, high in BOUNDS:
        value = flat.get(key)
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            allowed = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise UserError(f"{key}={value}: must be {allowed}")
    for key, names in CHOICES.items():
        if key in flat and flat[key] not in names:
            raise UserError(f"{key}={flat[key]}: must be one of {', '.join(names)}")
    if isinstance(config, TrainConfig):
        validate_training(config)
    if isinstance(config, AppConfig):
        validate_app(config)


def validate_training(config: TrainConfig) -> None:
    """Raises UserError for combinations of valid values that contradict each other."""
    model, data, optim, trainer = config.model, config.data, config.optim, config.trainer
    if model.d_model % model.n_head:
        fits = [h for h in range(1, min(model.d_model, 64) + 1) if model.d_model % h == 0]
        raise UserError(
            f"model.n_head={model.n_head}: must divide model.d_model={model.d_model}; "
            f"these do: {', '.join(map(str, fits))}"
        )
    if model.position == "rotary" and (model.d_model // model.n_head) % 2:
        raise UserError(
            f"model.position=rotary: needs an even width a head, and model.d_model={model.d_model} "
            f"over model.n_head={model.n_head} is {model.d_model // model.n_head}"
        )
    if model.position == "sinusoidal" and model.d_model % 2:
        raise UserError(f"model.d_model={model.d_model}: sinusoidal positions need an even width")
    if not (config.init_from or model.pretrained):  # whose context it is then
        validate_row_length(data.row_length, model.context_length)
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas={optim.betas}: must be two numbers from 0 to below 1")
    if optim.schedule != "constant" and optim.min_lr > optim.lr:
        raise UserError(f"optim.min_lr={optim.min_lr:g}: is above optim.lr={optim.lr:g}")
    if config.finetune.lora_rank and "*" in config.finetune.trainable:
        raise UserError(
            f"finetune.lora_rank={config.finetune.lora_rank}: trains additions to weights that "
            "stay, and finetune.trainable lets all be trained; take finetune=lora"
        )
    if trainer.tokens_per_step and trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"trainer.tokens_per_step={trainer.tokens_per_step} decides the accumulation; leave "
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} out"
        )


def validate_app(config: AppConfig) -> None:
    """Raises UserError for a page that others could reach, without a token they would need."""
    if config.token is not None and not re.fullmatch(r"[\w.~-]{16,200}", config.token, re.ASCII):
        raise UserError("token: must be 16 to 200 letters, digits or any of _ . ~ -")
    if config.token is None and not is_loopback(config.host):
        raise UserError(
            f"host={config.host}: other machines could reach the page; give it a token of 16 "
            "letters or more, token=…, or leave host out"
        )


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself, and nothing that others can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def validate_row_length(row_length: int | None, context_length: int) -> None:
    """Raises UserError for rows that are longer than the model can see at once."""
    if row_length and row_length > context_length + 1:
        raise UserError(
            f"data.row_length={row_length}: a row is input and target, so at most "
            f"model.context_length + 1 = {context_length + 1}"
        )
