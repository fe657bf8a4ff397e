"""What each command takes: a dataclass for each conf/NAME.yaml; its groups are in config.py."""

from dataclasses import dataclass, field
from typing import Any

from gptlab.config import (
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


@dataclass
class TrainConfig:
    """conf/train.yaml"""

    seed: int = 1337
    resume: str | None = None  # latest, or a run folder: go on where that run stopped
    preflight: str = "auto"  # auto: what takes a moment, before each run | only: all checks, no run
    init_from: str | None = None  # a run or checkpoint whose model a new run goes on to train
    random_weights: bool = False  # of init_from or model.pretrained take all but the weights
    baseline: bool = True  # classification: beside pretrained weights train random ones too
    baseline_of: str | None = None  # set by training: the run, by its folder's name, it is beside
    name: str | None = None  # the run's; null: from the choices made
    run_root: str = "runs"
    corpus_root: str = "corpora"
    prompt: str | None = None  # of the samples written while training
    n: int = 1  # samples each time
    max_new_tokens: int = 128
    before: list[str] = field(default_factory=list)  # at step 0: perplexity, samples, hellaswag
    after: list[str] = field(default_factory=lambda: ["perplexity"])  # likewise; also: windows
    inside: list[str] = field(default_factory=lambda: ["attention"])  # also: logit_lens, surprise
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hellaswag: HellaswagConfig = field(default_factory=HellaswagConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class GenerateConfig:
    """conf/generate.yaml"""

    run: str = "latest"  # latest, a run folder, or a checkpoint file
    run_root: str = "runs"
    prompt: str | None = None  # how the text begins; -: standard input; null: asked at a terminal
    prompt_file: str | None = None
    template: str = "auto"  # auto: as the model was finetuned | none | alpaca | plain: of prompts
    input: str | None = None  # what an instruction is about
    n: int = 1  # samples
    best_of: int | None = None  # so many samples are written, and the n likeliest shown
    max_new_tokens: int = 200
    stop: Any = None  # a text, or a list of them: a sample ends where it has one
    save: str | None = None  # NAME: the texts in NAME.txt, settings and probabilities in NAME.json
    weights: str = "float32"  # float32 | bfloat16 | int8: less to read for each token, less exact
    cache: bool = True  # keep keys and values of tokens that were read; the same text either way
    seed: int = 1337
    unknown: str = "error"  # error | skip, for characters the model never saw
    accelerator: str = "auto"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml"""

    run: str = "latest"  # latest, a run folder, a checkpoint, or a folder of an exported model
    run_root: str = "runs"
    corpus_root: str | None = None  # null: the run's
    suite: list[str] = field(default_factory=list)  # perplexity, hellaswag, overlap, stories, …
    n: int = 20  # texts written: by overlap, memorisation and stories
    max_new_tokens: int = 200
    prompt: str | None = None  # of stories; null: from the first word on
    batch_size: int = 8  # rows scored at once
    most_tokens: int | None = None  # of each held-out split; null: all
    stride: int | None = None  # of windows: score the last so many tokens of each; null: all
    seed: int = 1337
    text: str | None = None  # a message: which class is it of?
    unknown: str = "error"  # error | skip, for characters the model never saw
    accelerator: str = "auto"
    precision: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)  # another text than the run's
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hellaswag: HellaswagConfig = field(default_factory=HellaswagConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass
class ExportConfig:
    """conf/export.yaml"""

    run: str = "latest"  # latest, a run folder, or a checkpoint file
    run_root: str = "runs"
    to: str | None = None  # the folder to write
    adapter: bool = False  # of a model trained with LoRA only what was added, as PEFT keeps it


@dataclass
class PrepareConfig:
    """conf/prepare.yaml"""

    seed: int = 1337
    corpus_root: str = "corpora"
    verify: bool = False  # read every block of a finished corpus and compare its checksum
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class AppConfig:
    """conf/app.yaml"""

    run: str = "latest"  # shown first: latest, a run folder, a checkpoint, or an exported model
    run_root: str = "runs"  # the runs that can be chosen on the page
    host: str = "127.0.0.1"  # an address that other machines can reach takes a token
    port: int = 8642  # 0: any that is free
    token: str | None = None  # the page and the API are for those who know it; 16 letters or more
    max_new_tokens: int = 1000  # at most so many tokens of a sample, whatever is asked for
    waiting: int = 8  # requests that may wait for their turn; further ones are told to come back
    models: int = 3  # kept in memory; the one that was not used for longest makes room
    weights: str = "float32"  # float32 | bfloat16 | int8: less to read for each token, less exact
    accelerator: str = "auto"
    open_browser: bool = True  # where there is a screen
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # what the page begins with


SCHEMAS = {
    "app": AppConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}
