"""Declare all configuration keys, each with its type, default, help, bounds and choices.

Each command (SCHEMAS, conf/COMMAND.yaml) has a dataclass of its own keys and of groups that
commands share; conf/GROUP/ holds named choices. Nothing heavy is imported here: `--help` and shell
completion load this file.
"""

from dataclasses import dataclass, field
from typing import Any

from gptlab.config.keys import MAX_SEED, KeyInfo, key, keys_of, text_key

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true")
UNKNOWN = ("error", "skip")
LAYERS = "gptlab.model.layers"
FIFTH = "null: a fifth of the run, at most 1000; 0: never"
TEMPLATES = "gptlab.data.prompt_templates.PROMPT_TEMPLATES"
FORMATS = "gptlab.files.formats.SUFFIXES"
SOURCES = ("gptlab.data.sources.SOURCES", "gptlab.data.records.RECORD_SOURCES")
WEIGHT_DTYPES = ("float32", "bfloat16", "int8")
INSPECTIONS = "gptlab.evaluation.interpretability_plots.INSPECTIONS"
TRAINING_SUITES = ("samples", "gptlab.evaluation.suites.SUITES")
RUN = "latest, a run folder, or a checkpoint file"
RUN_ROOT = "folder of all runs"
CORPUS_ROOT = "folder of tokenized corpora"
SEED_HELP = "seed of all random numbers"
PLUGINS_HELP = "packages of yours that the run may import parts from, as in plugins=[mypkg]"


@dataclass
class ModelConfig:
    """The decoder (gptlab/model)."""

    n_layer: int = key(4, "decoder blocks", low=1)
    n_head: int = key(4, "attention heads per block; must divide d_model", low=1)
    d_model: int = key(128, "width of the embeddings and the residual stream", low=1)
    d_ff: int | None = key(None, "width of the feed-forward layer; null: 4 × d_model", low=1)
    context_length: int = key(128, "longest sequence the model can read, in tokens", low=1)
    trained_length: int | None = key(None, "set by training: longest position trained")
    vocab_size: int | None = key(None, "null: the tokenizer's; larger: padding", low=1)
    norm: str = key("pre", "normalize before or after each sublayer", choices=f"{LAYERS}.RESIDUALS")
    norm_type: str = key("layernorm", "normalization", choices=f"{LAYERS}.NORMS")
    final_norm: bool = key(True, "normalize once more before the output head")
    position: str = key("learned", "position encoding", choices=f"{LAYERS}.POSITIONS")
    feed_forward: str = key("gelu", "feed-forward activation", choices=f"{LAYERS}.FEED_FORWARDS")
    attention: str = key("fused", "fused: fast; eager: by hand", choices=f"{LAYERS}.ATTENTIONS")
    bias: bool = key(True, "biases in attention, feed-forward and norms")
    qkv_bias: bool | None = key(None, "biases of query, key and value; null: as model.bias")
    tied_head: bool = key(True, "share one matrix between token embedding and output head")
    head_bias: bool = key(False, "bias of the output head")
    scale_embeddings: bool = key(False, "multiply token embeddings by √d_model")
    dropout: float = key(0.0, "dropout on embeddings and sublayer outputs", low=0, high=0.99)
    attention_dropout: float = key(0.0, "dropout on attention weights", low=0, high=0.99)
    init_std: float = key(0.02, "standard deviation of the initial weights", low=0)
    let_attention_see_the_future: bool = key(False, "remove the causal mask (demonstration only)")
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
    unknown: str = key("error", "char, words: characters not in the vocabulary", choices=UNKNOWN)


@dataclass
class DataConfig:
    """Where documents come from and how they become batches (gptlab/data)."""

    task: str = key("text", "what to learn", choices=("text", "classification", "instructions"))
    source: str = key("text", "text: files of data.path; otherwise built in", choices=SOURCES)
    path: Any = text_key(None, "your own files instead: a file, folder or glob, or a list of these")
    valid_path: Any = text_key(None, "held-out documents; null: split off as data.split says")
    hub: str | None = text_key(None, "source=hub: Hugging Face dataset, or a folder with its copy")
    hub_config: str | None = key(None, "source=hub: configuration of the dataset")
    format: str | None = key(
        None, "how to read files; null: by name and content", choices=FORMATS, closed=True
    )
    encoding: str | None = key(None, "encoding of text files, such as cp1252; null: detect it")
    text_column: str | None = key(None, "column of a table with the text; null: text")
    label_column: str | None = key(None, "classification: column with the class; null: by its name")
    document_boundary: str = key(
        "auto", "where a document ends; auto: at <|endoftext|>", choices=("auto", "line", "file")
    )
    repair_encoding: bool = key(False, "repair mis-decoded characters, such as â€œ for “")
    max_samples: int | None = key(None, "first documents only; toy sources: number to make", low=2)
    max_tokens: int | None = key(None, "stop reading after about this many tokens", low=1)
    subset: float = key(1.0, "random share of the documents, before any split", low=1e-9, high=1)
    split: float = key(0.1, "share to validate on; with valid_path: to test on", low=0, high=0.9)
    split_by: str = key("random", "random documents or the end", choices=("random", "tail"))
    test_split: float = key(0.0, "records: also hold out this share for a test", low=0, high=0.9)
    balance_classes: bool = key(True, "classification: cut every class to the smallest one's size")
    template: str = key("alpaca", "instructions: prompt format", choices=TEMPLATES)
    loss_on: str = key("response", "instructions: tokens in the loss", choices=("response", "all"))
    batching: str = key(
        "random",
        "rows: one document a row; random: windows at random; sliding: consecutive windows",
        choices="gptlab.data.sequences.BATCHING",
    )
    batch_size: int = key(16, "rows in a micro-batch", low=1)
    stride: int | None = key(None, "sliding: step between window starts; null: the context", low=1)
    row_length: int | None = key(None, "tokens of a row with its target; null: context + 1", low=2)
    eot_first: bool = key(False, "start rows with end-of-text, to learn the first word, too")
    learn_eot: bool = key(True, "rows: learn where a document ends; false: no loss on end-of-text")
    valid_tokens: int = key(100_000, "most tokens scored in each validation", low=1)
    final_tokens: int | None = key(None, "tokens scored per split at the end; null: all", low=1)
    default_max_steps: int = key(2000, "steps if trainer.max_steps and max_epochs are null", low=1)
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
    weight_decay_on: str = key("matrices", "which weights decay", choices=("matrices", "all"))
    grad_clip: float = key(1.0, "largest gradient norm; 0: no clipping", low=0)
    schedule: str = key(
        "constant", "shape after the warmup", choices="gptlab.training.optim.SCHEDULES"
    )
    warmup_steps: int | None = key(0, "linear warmup; null: a tenth of the run, at most 100", low=0)
    min_lr: float = key(0.0, "cosine, wsd: learning rate at the end", low=0)
    cooldown_fraction: float = key(0.2, "wsd: share of the steps in which it falls", low=0, high=1)


@dataclass
class FinetuneConfig:
    """Which weights are trained (gptlab/model/lora.py, gptlab/training/optim.py).

    Weights are named as in a checkpoint; `*` matches anything, `blocks.-1` is the last block.
    """

    trainable: list[str] = key(["*"], "patterns of the weights to train; the others stay frozen")
    layer_decay: float = key(1.0, "learning rate of a block / of the block above", low=1e-3, high=1)
    lora_rank: int | None = key(None, "train low-rank updates of this rank; null: no LoRA", low=1)
    lora_alpha: float = key(16.0, "LoRA: updates are scaled by lora_alpha / lora_rank", low=0)
    lora_targets: list[str] = key(["*.qkv", "*.out", "*.up", "*.down"], "LoRA: layers to update")


@dataclass
class TrainerConfig:
    """The run (gptlab/training). Steps are optimizer steps."""

    max_steps: int | None = key(None, "steps; null, as max_epochs: data.default_max_steps", low=1)
    max_epochs: float | None = key(None, "passes over the data, if fewer than max_steps", low=1e-9)
    accumulate_grad_batches: int = key(1, "micro-batches per step", low=1)
    tokens_per_step: int | None = key(None, "tokens per step; sets accumulate_grad_batches", low=1)
    eval_every: int | None = key(None, f"steps between validations; {FIFTH}", low=0)
    checkpoint_every: int | None = key(None, f"steps between checkpoints; {FIFTH}", low=0)
    checkpoint_every_seconds: float | None = key(
        60.0, "also save a checkpoint after this many seconds; null: never", low=0
    )
    checkpoint_every_epoch: bool = key(False, "keep a checkpoint of each epoch")
    keep_step_checkpoints: bool = key(False, "keep all of checkpoint_every as step_N.ckpt")
    sample_every: int | None = key(None, f"steps between samples; {FIFTH}", low=0)
    sample_every_epoch: bool = key(False, "generate samples after each epoch")
    log_every: int = key(10, "steps between logged metrics", low=1)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    devices: int = key(1, "devices per machine", low=1)
    num_nodes: int = key(1, "machines", low=1)
    strategy: str = key("auto", "Lightning strategy, such as ddp")
    precision: str = key("auto", "auto: bf16-mixed if the GPU supports it", choices=PRECISIONS)
    halve_on_out_of_memory: bool = key(True, "one GPU: retry with smaller micro-batches")
    num_threads: int | None = key(None, "CPU threads; null: one per core", low=1)
    compile: str = key(
        "auto",
        "model: torch.compile; step: one CPU graph; auto: step for runs that amortize compiling it",
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
        1.0, "above 1 more random, below 1 safer; 0: greedy", low=0, high=1e4, slider=(0, 2, 0.05)
    )
    top_k: int | None = key(None, "the k most likely tokens; null: off", low=1, slider=(1, 100, 1))
    top_p: float | None = key(
        None,
        "likeliest tokens up to this total; null: off",
        low=1e-9,
        high=1,
        slider=(0.05, 1, 0.01),
    )
    min_p: float | None = key(
        None,
        "drop tokens below this × the likeliest; null: off",
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
        1.0, "beams: rank by log-probability / length ** this", low=-10, high=10, slider=(0, 2, 0.1)
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


@dataclass
class TrainConfig:
    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    resume: str | None = text_key(None, "continue a run: latest, or a run folder")
    plugins: list[str] = key([], PLUGINS_HELP)
    preflight: str = key(
        "auto", "auto: quick checks first; only: all checks, no run", choices=("auto", "only")
    )
    init_from: str | None = text_key(None, "start from the weights of a run or checkpoint")
    from_scratch: bool = key(False, "take only the architecture of init_from or pretrained")
    baseline: bool = key(True, "pretrained classifier: also train from random weights")
    baseline_of: str | None = key(None, "set by training: run folder this baseline belongs to")
    name: str | None = text_key(None, "end of the run folder's name; null: chosen groups")
    run_root: str = text_key("runs", RUN_ROOT)
    corpus_root: str = text_key("corpora", CORPUS_ROOT)
    prompt: str | None = text_key(None, "prompt of the samples generated in training")
    num_samples: int = key(1, "samples to generate each time", low=1)
    max_new_tokens: int = key(128, "longest sample, in tokens", low=1)
    eval_before: list[str] = key([], "evaluations at step 0", choices=TRAINING_SUITES)
    eval_after: list[str] = key(["perplexity"], "evaluations at the end", choices=TRAINING_SUITES)
    log_interpretability: list[str] = key(
        ["attention"], "plots for TensorBoard after training", choices=INSPECTIONS
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hellaswag: HellaswagConfig = field(default_factory=HellaswagConfig)
    callbacks: dict[str, Any] = key({}, "your Lightning callbacks: +callbacks.NAME._target_=CLASS")
    logger: dict[str, Any] = key({}, "your Lightning loggers: +logger.NAME._target_=CLASS")


@dataclass
class GenerateConfig:
    run: str = text_key("latest", RUN)
    run_root: str = text_key("runs", RUN_ROOT)
    plugins: list[str] = key([], PLUGINS_HELP)
    prompt: str | None = text_key(None, "start of the text; -: standard input; null: ask")
    prompt_file: str | None = text_key(None, "file with the prompt")
    template: str = key(
        "auto", "prompt format; auto: as trained", choices=("auto", "none", TEMPLATES)
    )
    input: str | None = text_key(None, "input of an instruction, as in alpaca")
    num_samples: int = key(1, "samples to generate", low=1, slider=(1, 8, 1))
    best_of: int | None = key(None, "generate this many, show the num_samples most likely", low=1)
    max_new_tokens: int = key(200, "longest sample, in tokens", low=1, slider=(10, 500, 10))
    stop: Any = text_key(None, "end a sample at this text, or at one of a list")
    save_as: str | None = text_key(None, "NAME: write NAME.txt, with probabilities NAME.json")
    weight_dtype: str = key("float32", "bfloat16, int8: faster, less exact", choices=WEIGHT_DTYPES)
    kv_cache: bool = key(True, "cache keys and values; the text is the same either way")
    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    unknown: str = key("skip", "words of the prompt that the model never saw", choices=UNKNOWN)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class EvaluateConfig:
    run: str = text_key("latest", f"{RUN}, or an exported model")
    run_root: str = text_key("runs", RUN_ROOT)
    plugins: list[str] = key([], PLUGINS_HELP)
    corpus_root: str | None = text_key(None, f"{CORPUS_ROOT}; null: as in the run")
    suite: list[str] = key([], "evaluations to run", choices="gptlab.evaluation.suites.SUITES")
    num_samples: int = key(20, "bleu_rouge, memorisation, text_quality: samples to generate", low=1)
    max_new_tokens: int = key(200, "longest sample, in tokens", low=1)
    prompt: str | None = text_key(None, "text_quality: prompt; null: start from nothing")
    batch_size: int = key(8, "rows scored at once", low=1)
    max_tokens: int | None = key(None, "most tokens scored per split; null: all", low=1)
    stride: int | None = key(None, "sliding windows: last tokens scored of each; null: all", low=1)
    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    text: str | None = text_key(None, "message to classify")
    unknown: str = key(
        "auto",
        "words that the model never saw; auto: skip in text, error in a suite",
        choices=("auto", *UNKNOWN),
    )
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    precision: str = key("auto", "auto: as trainer.precision=auto", choices=PRECISIONS)
    data: DataConfig = field(default_factory=DataConfig)  # replaces the run's corpus
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hellaswag: HellaswagConfig = field(default_factory=HellaswagConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass
class ExportConfig:
    run: str = text_key("latest", RUN)
    run_root: str = text_key("runs", RUN_ROOT)
    plugins: list[str] = key([], PLUGINS_HELP)
    output_dir: str | None = text_key(None, "folder to write")
    adapter: bool = key(False, "model trained with LoRA: export only the adapter, for PEFT")


@dataclass
class PrepareConfig:
    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    corpus_root: str = text_key("corpora", CORPUS_ROOT)
    plugins: list[str] = key([], PLUGINS_HELP)
    verify: bool = key(False, "compare every block of an existing corpus with its checksum")
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class AppConfig:
    run: str = text_key("latest", f"shown first: {RUN}, or an exported model")
    run_root: str = text_key("runs", "folder of the runs shown on the page")
    plugins: list[str] = key([], PLUGINS_HELP)
    host: str = text_key("127.0.0.1", "address; a public one needs a token")
    port: int = key(8642, "port; 0: any free one", low=0, high=65535)
    token: str | None = text_key(None, "password, at least 16 letters; null: none")
    max_new_tokens: int = key(1000, "longest sample of any request, in tokens", low=1)
    max_queue: int = key(8, "maximum queue length; beyond it, HTTP 429", low=0, high=1000)
    max_models: int = key(3, "models in memory, the most recently used", low=1, high=100)
    weight_dtype: str = key("float32", "bfloat16, int8: faster, less exact", choices=WEIGHT_DTYPES)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    open_browser: bool = key(True, "open the page in a browser, if there is a screen")
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # start values of the page


SCHEMAS = {
    "app": AppConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}


def field_info(name: str, command: str = "train") -> KeyInfo:
    """Return the KeyInfo of a command's key; raises KeyError if there is no such key."""
    return keys_of(SCHEMAS[command])[name]
