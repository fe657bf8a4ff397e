"""The commands: each is a dataclass of its own keys and of the groups in gptlab/config/groups.py.

Nothing heavy is imported here: `--help` and shell completion load this file.
"""

from dataclasses import dataclass, field
from typing import Any

from gptlab.config.groups import (
    ACCELERATORS,
    PRECISIONS,
    TEMPLATES,
    UNKNOWN,
    DataConfig,
    FinetuneConfig,
    HellaswagConfig,
    JudgeConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainerConfig,
)
from gptlab.config.keys import MAX_SEED, KeyInfo, key, keys_of, text_key

WEIGHT_DTYPES = ("float32", "bfloat16", "int8")
TRAINING_SUITES = ("samples", "gptlab.evaluation.suites.SUITES")
RUN = "latest, a run folder, or a checkpoint file"
RUN_ROOT = "folder of all runs"
CORPUS_ROOT = "folder of tokenised corpora"
SEED_HELP = "seed of all random numbers"


@dataclass
class TrainConfig:
    """conf/train.yaml"""

    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    resume: str | None = text_key(None, "continue a run: latest, or a run folder")
    preflight: str = key(
        "auto",
        "auto: quick checks before each run; only: all checks and no run",
        choices=("auto", "only"),
    )
    init_from: str | None = text_key(None, "start from the weights of a run or checkpoint")
    from_scratch: bool = key(
        False, "take the model of init_from or model.pretrained, but random weights"
    )
    baseline: bool = key(
        True, "classification from pretrained weights: also train from random weights"
    )
    baseline_of: str | None = key(None, "set by training: run folder this baseline belongs to")
    name: str | None = text_key(None, "end of the run folder's name; null: chosen groups")
    run_root: str = text_key("runs", RUN_ROOT)
    corpus_root: str = text_key("corpora", CORPUS_ROOT)
    prompt: str | None = text_key(None, "prompt of the samples generated in training")
    num_samples: int = key(1, "samples to generate each time", low=1)
    max_new_tokens: int = key(128, "longest sample, in tokens", low=1)
    eval_before: list[str] = key([], "evaluation suites at step 0", choices=TRAINING_SUITES)
    eval_after: list[str] = key(
        ["perplexity"], "evaluation suites at the end", choices=TRAINING_SUITES
    )
    log_interpretability: list[str] = key(
        ["attention"],
        "TensorBoard plots of the trained model's inside",
        choices="gptlab.evaluation.interpretability_plots.INSPECTIONS",
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
    logger: dict[str, Any] = key({}, "Lightning loggers: +logger.NAME._target_=CLASS")


@dataclass
class GenerateConfig:
    """conf/generate.yaml"""

    run: str = text_key("latest", RUN)
    run_root: str = text_key("runs", RUN_ROOT)
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
    unknown: str = key("error", "what to do with characters the model never saw", choices=UNKNOWN)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml"""

    run: str = text_key("latest", f"{RUN}, or an exported model")
    run_root: str = text_key("runs", RUN_ROOT)
    corpus_root: str | None = text_key(None, f"{CORPUS_ROOT}; null: as in the run")
    suite: list[str] = key([], "evaluations to run", choices="gptlab.evaluation.suites.SUITES")
    num_samples: int = key(20, "bleu_rouge, memorisation, text_quality: samples to generate", low=1)
    max_new_tokens: int = key(200, "longest sample, in tokens", low=1)
    prompt: str | None = text_key(None, "text_quality: prompt; null: start from nothing")
    batch_size: int = key(8, "rows scored at once", low=1)
    max_tokens: int | None = key(None, "most tokens scored per split; null: all", low=1)
    stride: int | None = key(
        None, "sliding windows: score only this many last tokens of each; null: all", low=1
    )
    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    text: str | None = text_key(None, "message to classify")
    unknown: str = key("error", "what to do with characters the model never saw", choices=UNKNOWN)
    accelerator: str = key("auto", "auto: CUDA, MPS or CPU, in this order", choices=ACCELERATORS)
    precision: str = key("auto", "auto: as trainer.precision=auto", choices=PRECISIONS)
    data: DataConfig = field(default_factory=DataConfig)  # another text than the run's
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hellaswag: HellaswagConfig = field(default_factory=HellaswagConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass
class ExportConfig:
    """conf/export.yaml"""

    run: str = text_key("latest", RUN)
    run_root: str = text_key("runs", RUN_ROOT)
    output_dir: str | None = text_key(None, "folder to write")
    adapter: bool = key(False, "model trained with LoRA: export only the adapter, for PEFT")


@dataclass
class PrepareConfig:
    """conf/prepare.yaml"""

    seed: int = key(1337, SEED_HELP, low=0, high=MAX_SEED)
    corpus_root: str = text_key("corpora", CORPUS_ROOT)
    verify: bool = key(False, "compare every block of an existing corpus with its checksum")
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class AppConfig:
    """conf/app.yaml"""

    run: str = text_key("latest", f"shown first: {RUN}, or an exported model")
    run_root: str = text_key("runs", "folder of the runs shown on the page")
    host: str = text_key("127.0.0.1", "address; a public one needs a token")
    port: int = key(8642, "port; 0: any free one", low=0, high=65535)
    token: str | None = text_key(
        None, "password of the page and the API, at least 16 letters; null: none"
    )
    max_new_tokens: int = key(1000, "longest sample of any request, in tokens", low=1)
    max_queue: int = key(8, "maximum queue length; beyond it, HTTP 429", low=0, high=1000)
    max_models: int = key(3, "models kept in memory; the least recently used goes", low=1, high=100)
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
    """What is known about a key of a command: help, bounds, choices, default, slider.

    Raises KeyError if the command has no such key.
    """
    return keys_of(SCHEMAS[command])[name]
