"""The groups of configuration keys: type, default, help, bounds and choices of each key.

gptlab/config/schema.py combines them into commands; conf/ holds named choices for the groups.
Nothing heavy is imported here: `--help` and shell completion load this file.
"""

from dataclasses import dataclass
from typing import Any

from gptlab.config.keys import key, text_key

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true")
UNKNOWN = ("error", "skip")
TEMPLATES = "gptlab.data.prompt_templates.PROMPT_TEMPLATES"


@dataclass
class ModelConfig:
    """The decoder (gptlab/model)."""

    n_layer: int = key(4, "decoder blocks", low=1)
    n_head: int = key(4, "attention heads per block; must divide d_model", low=1)
    d_model: int = key(128, "width of the embeddings and the residual stream", low=1)
    d_ff: int | None = key(None, "width of the feed-forward layer; null: 4 × d_model", low=1)
    context_length: int = key(128, "longest sequence the model can read, in tokens", low=1)
    trained_length: int | None = key(None, "set by training: positions that training rows reached")
    vocab_size: int | None = key(None, "null: the tokenizer's; ids beyond it are never used", low=1)
    norm: str = key(
        "pre", "normalise before or after each sublayer", choices="gptlab.model.layers.RESIDUALS"
    )
    norm_type: str = key("layernorm", "normalisation", choices="gptlab.model.layers.NORMS")
    final_norm: bool = key(True, "normalise once more before the output head")
    position: str = key("learned", "position encoding", choices="gptlab.model.layers.POSITIONS")
    feed_forward: str = key(
        "gelu", "feed-forward layer, by activation", choices="gptlab.model.layers.FEED_FORWARDS"
    )
    attention: str = key(
        "fused", "fused: fast; eager: step by step", choices="gptlab.model.layers.ATTENTIONS"
    )
    bias: bool = key(True, "biases in attention, feed-forward and norms")
    qkv_bias: bool | None = key(None, "biases of query, key and value; null: as model.bias")
    tied_head: bool = key(True, "share one matrix between token embedding and output head")
    head_bias: bool = key(False, "bias of the output head")
    scale_embeddings: bool = key(False, "multiply token embeddings by √d_model")
    dropout: float = key(0.0, "dropout on embeddings and sublayer outputs", low=0, high=0.99)
    attention_dropout: float = key(0.0, "dropout on attention weights", low=0, high=0.99)
    init_std: float = key(0.02, "standard deviation of the initial weights", low=0)
    let_attention_see_the_future: bool = key(
        False, "no causal mask: demonstrates a leak, never for real"
    )
    n_classes: int | None = key(None, "set by the data: classify texts", low=2, high=10_000)
    pretrained: str | None = text_key(None, "start from GPT-2 weights: folder, file or hub name")

    @property
    def window(self) -> int:
        """Longest input at inference, in tokens: later positions were never trained."""
        return min(self.context_length, self.trained_length or self.context_length)


@dataclass
class TokenizerConfig:
    """How text becomes token ids (gptlab/data/tokenizer.py)."""

    name: str = key("gpt2", "tokenizer", choices="gptlab.data.tokenizer.TOKENIZERS")
    max_words: int = key(8192, "words: vocabulary size; rarer words are spelled", low=1)
    unknown: str = key(
        "error", "char, words: what to do with characters not in the vocabulary", choices=UNKNOWN
    )


@dataclass
class DataConfig:
    """Where documents come from and how they become batches (gptlab/data)."""

    task: str = key(
        "text", "what to learn from a document", choices=("text", "classification", "instructions")
    )
    source: str = key(
        "text",
        "text: your own files (data.path); otherwise a built-in source",
        choices=("gptlab.data.sources.SOURCES", "gptlab.data.records.RECORD_SOURCES"),
    )
    path: Any = text_key(None, "your own files instead: a file, a list of files, or a folder")
    valid_path: Any = text_key(None, "held-out documents; null: split off as data.split says")
    hub: str | None = text_key(None, "source=hub: Hugging Face dataset, or a folder with its copy")
    hub_config: str | None = key(None, "source=hub: configuration of the dataset")
    text_column: str | None = key(None, "text column of .jsonl, .json, .parquet; null: text")
    document_boundary: str = key(
        "auto",
        "where a document of a text file ends; auto: at <|endoftext|>",
        choices=("auto", "line", "file"),
    )
    repair_encoding: bool = key(False, "repair mis-decoded characters, such as â€œ for “")
    max_samples: int | None = key(
        None, "first documents only; toy sources: how many to make", low=2
    )
    max_tokens: int | None = key(None, "stop reading after about this many tokens", low=1)
    subset: float = key(
        1.0, "use a random share of the documents, before any split", low=1e-9, high=1
    )
    split: float = key(
        0.1,
        "share held out for validation, or for a test if validation files are given",
        low=0,
        high=0.9,
    )
    split_by: str = key(
        "random", "hold out random documents or the end", choices=("random", "tail")
    )
    test_split: float = key(0.0, "records: also hold out this share for a test", low=0, high=0.9)
    balance_classes: bool = key(
        True, "classification: reduce every class to the size of the smallest"
    )
    template: str = key("alpaca", "instructions: prompt format", choices=TEMPLATES)
    loss_on: str = key(
        "response", "instructions: tokens that count in the loss", choices=("response", "all")
    )
    batching: str = key(
        "random",
        "rows: one document a row; random: windows at random; sliding: consecutive windows",
        choices="gptlab.data.sequences.BATCHING",
    )
    batch_size: int = key(16, "rows in a micro-batch", low=1)
    stride: int | None = key(
        None, "sliding: tokens from window to window; null: the context", low=1
    )
    row_length: int | None = key(None, "tokens of a row with its target; null: context + 1", low=2)
    eot_first: bool = key(
        False, "start each row with end-of-text, so that the first word is learned too"
    )
    learn_eot: bool = key(True, "rows: learn where a document ends; false: no loss on end-of-text")
    valid_tokens: int = key(100_000, "most tokens scored in each validation", low=1)
    final_tokens: int | None = key(
        None, "most tokens scored per split at the end; null: all", low=1
    )
    default_max_steps: int = key(
        2000, "run length if trainer.max_steps and max_epochs are null", low=1
    )
    num_workers: int = key(0, "processes that prepare batches; 0: the main process", low=0)
    fit_to_text: bool = key(False, "shorten context and run to fit a short text")
    prompt: str | None = text_key(None, "sample prompt; null: start of a held-out document")


@dataclass
class OptimConfig:
    """Optimizer and schedule (gptlab/training/optim.py)."""

    name: str = key("adamw", "optimizer", choices="gptlab.training.optim.OPTIMIZERS")
    lr: float = key(1e-3, "peak learning rate", low=0)
    betas: list[float] = key([0.9, 0.95], "adam, adamw: decay rates of both moments")
    eps: float = key(1e-8, "adam, adamw: added to the denominator", low=0)
    momentum: float = key(0.9, "sgd: momentum", low=0, high=1)
    weight_decay: float = key(0.1, "strength of the weight decay", low=0)
    weight_decay_on: str = key(
        "matrices", "weights that decay: matrices only, or all", choices=("matrices", "all")
    )
    grad_clip: float = key(1.0, "largest gradient norm; 0: no clipping", low=0)
    schedule: str = key(
        "constant", "learning rate after the warmup", choices="gptlab.training.optim.SCHEDULES"
    )
    warmup_steps: int | None = key(
        0, "steps of linear warmup; null: a tenth of the run, at most 100", low=0
    )
    min_lr: float = key(0.0, "cosine, wsd: learning rate at the end", low=0)
    cooldown_fraction: float = key(
        0.2, "wsd: share of all steps in which the rate falls", low=0, high=1
    )


@dataclass
class FinetuneConfig:
    """Which weights are trained (gptlab/model/lora.py, gptlab/training/optim.py).

    Weights are named as in a checkpoint; `*` matches anything, `blocks.-1` is the last block.
    """

    trainable: list[str] = key(["*"], "patterns of the weights to train; the others stay frozen")
    layer_decay: float = key(
        1.0, "rate of a block = this × rate of the block above", low=1e-3, high=1
    )
    lora_rank: int | None = key(None, "train low-rank updates of this rank; null: no LoRA", low=1)
    lora_alpha: float = key(16.0, "LoRA: updates are scaled by lora_alpha / lora_rank", low=0)
    lora_targets: list[str] = key(
        ["*.qkv", "*.out", "*.up", "*.down"], "LoRA: patterns of the layers to update"
    )


@dataclass
class TrainerConfig:
    """The run (gptlab/training). Steps are optimizer steps."""

    max_steps: int | None = key(
        None, "steps of the run; null with max_epochs=null: data.default_max_steps", low=1
    )
    max_epochs: float | None = key(
        None, "passes over the data; with max_steps: the shorter", low=1e-9
    )
    accumulate_grad_batches: int = key(1, "micro-batches per step", low=1)
    tokens_per_step: int | None = key(
        None, "tokens per step; sets accumulate_grad_batches; null: not used", low=1
    )
    eval_every: int | None = key(
        None, "steps between validations; null: a fifth of the run, at most 1000; 0: never", low=0
    )
    checkpoint_every: int | None = key(
        None, "steps between checkpoints; null: a fifth of the run, at most 1000; 0: never", low=0
    )
    checkpoint_every_seconds: float | None = key(
        60.0, "also save a checkpoint after this many seconds; null: never", low=0
    )
    checkpoint_every_epoch: bool = key(False, "keep a checkpoint of each epoch")
    keep_step_checkpoints: bool = key(
        False, "keep every checkpoint of checkpoint_every as step_N.ckpt"
    )
    sample_every: int | None = key(
        None, "steps between samples; null: a fifth of the run, at most 1000; 0: never", low=0
    )
    sample_every_epoch: bool = key(False, "generate samples after each epoch")
    log_every: int = key(10, "steps between logged metrics", low=1)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    devices: int = key(1, "devices per machine", low=1)
    num_nodes: int = key(1, "machines", low=1)
    strategy: str = key("auto", "Lightning strategy, such as ddp")
    precision: str = key("auto", "auto: bf16-mixed if the GPU supports it", choices=PRECISIONS)
    halve_on_out_of_memory: bool = key(
        True, "one GPU: after running out of memory, retry with smaller micro-batches"
    )
    num_threads: int | None = key(None, "CPU threads; null: one per core", low=1)
    compile: str = key(
        "auto",
        "false: nothing; model: torch.compile; step: one graph on a CPU; auto: step if it pays",
        choices=("auto", "false", "model", "step"),
    )
    chunked_loss: bool = key(True, "large vocabulary: compute the loss in chunks to save memory")
    fast_loop: bool = key(True, "CPU: run Lightning's training loop with less overhead")
    keep_freed_memory: bool = key(True, "CPU: reuse freed memory instead of returning it")
    deterministic: bool | None = key(None, "bit-identical results; null: only on a CPU")
    extra: dict[str, Any] = key({}, "arguments of Lightning's Trainer: +trainer.extra.NAME=VALUE")


@dataclass
class SamplingConfig:
    """From logits to the next token (gptlab/generation/sampling.py)."""

    temperature: float = key(
        1.0,
        "above 1 more random, below 1 safer; 0: always the most likely token",
        low=0,
        high=1e4,
        slider=(0, 2, 0.05),
    )
    top_k: int | None = key(
        None, "only the k most likely tokens; null: off", low=1, slider=(1, 100, 1)
    )
    top_p: float | None = key(
        None,
        "sample only from the most likely tokens with this total probability; null: off",
        low=1e-9,
        high=1,
        slider=(0.05, 1, 0.01),
    )
    min_p: float | None = key(
        None,
        "drop tokens less likely than this × the most likely one; null: off",
        low=0,
        high=1,
        slider=(0, 0.5, 0.01),
    )
    repetition_penalty: float = key(
        1.0, "above 1: make tokens already in the text less likely", low=1e-3, slider=(0.5, 2, 0.05)
    )
    no_repeat_ngram: int | None = key(
        None, "never repeat a sequence of this many tokens; null: off", low=1, slider=(1, 10, 1)
    )
    beams: int = key(1, "above 1: beam search, without sampling", low=1, slider=(1, 8, 1))
    length_penalty: float = key(
        1.0,
        "beam search: rank by log-probability / length ** this; above 1: longer texts",
        low=-10,
        high=10,
        slider=(0, 2, 0.1),
    )


@dataclass
class HellaswagConfig:
    """Choose the right ending of a text (gptlab/evaluation/hellaswag.py)."""

    path: str | None = text_key(None, "the official file; null: download it once")
    max_questions: int | None = key(None, "use only the first questions; null: all", low=1)
    batch_size: int = key(32, "sequences scored at once", low=1)


@dataclass
class JudgeConfig:
    """A model that rates responses (gptlab/evaluation/judge.py)."""

    url: str | None = text_key(None, "server with OpenAI's API, such as http://localhost:11434/v1")
    model: str = key("llama3.2", "name of the model on that server")
    api_key_env: str = key("OPENAI_API_KEY", "environment variable with the server's API key")
    timeout: float = key(120.0, "seconds to wait for an answer")
