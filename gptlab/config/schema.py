"""The groups of the configuration, every key with its type and default; conf/ holds the named
choices. The commands, which these are parts of, are in commands.py.

Nothing heavy is imported here: `--help` and shell completion load this file.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


@dataclass
class ModelConfig:
    """The decoder (gptlab/model). Names are those of the tables in gptlab/model/layers.py."""

    n_layer: int = 4
    n_head: int = 4
    d_model: int = 128
    d_ff: int | None = None  # null: 4 × d_model
    context_length: int = 128  # tokens the model can see at once
    trained_length: int | None = None  # set by training: positions beyond it never occurred
    vocab_size: int | None = None  # null: the tokenizer's; larger: padded with ids never written
    norm: str = "pre"  # pre | post
    norm_type: str = "layernorm"  # layernorm | rmsnorm
    final_norm: bool = True
    position: str = "learned"  # sinusoidal | learned | rotary | none
    feed_forward: str = "gelu"  # relu | gelu | gelu_tanh | relu2 | swiglu
    attention: str = "fused"  # fused | eager
    bias: bool = True  # in attention, feed-forward and norms
    qkv_bias: bool | None = None  # null: as bias
    tied_head: bool = True  # the head is the embedding's matrix
    head_bias: bool = False
    scale_embeddings: bool = False  # token embeddings times √d_model
    dropout: float = 0.0  # on embeddings and on each sublayer's output
    attention_dropout: float = 0.0
    init_std: float = 0.02
    let_attention_see_the_future: bool = False  # a demonstration of a leak; never for a real model
    n_classes: int | None = None  # set by data with classes: the head tells these apart, not tokens
    pretrained: str | None = None  # GPT-2's weights: a folder, a file, or a name on the hub: gpt2

    @property
    def window(self) -> int:
        """Tokens to show the model at once: those positions that its training has reached."""
        return min(self.context_length, self.trained_length or self.context_length)


@dataclass
class TokenizerConfig:
    """How text becomes token ids (gptlab/data/tokenizer.py)."""

    name: str = "gpt2"  # gpt2 | words | char
    max_words: int = 8192  # words: rarer ones are spelled, character by character
    unknown: str = "error"  # char, words: error | skip, for what the vocabulary cannot spell


@dataclass
class DataConfig:
    """Where documents come from and how they become batches (gptlab/data)."""

    task: str = "text"  # text | classification | instructions: what is learnt of a document
    source: str = "text"  # text | toy_stories | hub; or a set of records, see conf/data
    path: Any = None  # a file, a list of files, or a folder; instead of the source's own documents
    valid_path: Any = None  # held-out documents; null: split off by the rule below
    hub: str | None = None  # a data set on the Hugging Face hub, or a folder with a copy of one
    hub_config: str | None = None
    text_column: str | None = None  # of .jsonl, .json and .parquet; null: `text`
    documents: str = "auto"  # auto (by <|endoftext|>) | line | file: one document of a text file
    repair_encoding: bool = False  # turn â€œ back into “ and so on
    max_samples: int | None = (
        None  # training documents, from the first; toy_stories: how many in all
    )
    max_tokens: int | None = None  # stop reading after about so many
    subset: float = 1.0  # a random share of the training documents, before any is held out
    split: float = 0.1  # share held out: for validation, or for a test where validation exists
    split_by: str = "random"  # random | tail
    test_split: float = 0.0  # records: share held out for a test, beside `split` to validate
    balance: bool = True  # classification: of each class as many as there are of the rarest
    template: str = (
        "alpaca"  # instructions: how one is put to the model (gptlab/data/prompt_templates.py)
    )
    loss_on: str = "response"  # instructions: response | all
    batching: str = "random"  # rows | random | sliding
    batch_size: int = 16  # rows in a micro-batch
    stride: int | None = None  # sliding: tokens from one window to the next; null: context_length
    row_length: int | None = None  # tokens of a row, input and target; null: context_length + 1
    eot_first: bool = False  # begin rows and prompts with end-of-text: the first word counts too
    keep_first_eot: bool = True  # rows: learn to end; false: ignore every end-of-text in the loss
    valid_tokens: int = 100_000  # at most so many tokens are scored in one validation
    final_tokens: int | None = None  # likewise at the end, of each split; null: all
    max_steps: int = 2000  # of a run that names neither trainer.max_steps nor max_epochs
    num_workers: int = 0  # processes that make batches ready
    fit_to_text: bool = False  # own text: shorten context and training where the text is short
    prompt: str | None = None  # what samples begin with; null: the opening of a held-out document


@dataclass
class OptimConfig:
    """Optimizer and schedule (gptlab/training/optim.py)."""

    name: str = "adamw"  # adamw | adam | sgd
    lr: float = 1e-3  # the highest
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.1
    decay: str = "matrices"  # matrices | all
    grad_clip: float = 1.0  # largest gradient norm; 0: no clipping
    schedule: str = "constant"  # constant | cosine | wsd
    warmup_steps: int | None = 0  # null: a tenth of the run, at most 100
    min_lr: float = 0.0  # where cosine and wsd end
    cooldown: float = 0.2  # wsd: share of all steps in which the rate falls


@dataclass
class FinetuneConfig:
    """What of a model is trained, and how far (gptlab/model/lora.py, gptlab/training/optim.py).

    Weights are named as in a checkpoint; `*` stands for anything, `blocks.-1` for the last block.
    """

    trainable: list[str] = field(default_factory=lambda: ["*"])  # these weights; the rest stay
    layer_decay: float = 1.0  # the rate of each block is this times that of the block above it
    lora_rank: int | None = None  # add to matrices a trained product of this rank; null: do not
    lora_alpha: float = 16.0  # … times alpha / rank
    lora_targets: list[str] = field(default_factory=lambda: ["*.qkv", "*.out", "*.up", "*.down"])


@dataclass
class TrainerConfig:
    """The run (gptlab/training). Steps are optimizer steps."""

    max_steps: int | None = None  # whichever of these two comes first ends the run;
    max_epochs: float | None = None  # both null: as many steps as data.max_steps says
    accumulate_grad_batches: int = 1
    tokens_per_step: int | None = None  # sets accumulate_grad_batches
    eval_every: int | None = None  # steps; null: a fifth of the run, at most 1000; 0: never
    checkpoint_every: int | None = None  # likewise
    checkpoint_seconds: float | None = 60.0  # and whenever so much time has passed; null: never
    checkpoint_every_epoch: bool = False
    keep_steps: bool = False  # keep each of checkpoint_every as step_N.ckpt
    sample_every: int | None = None  # likewise
    sample_every_epoch: bool = False
    log_every: int = 10
    accelerator: str = "auto"  # auto | cpu | gpu | cuda | mps
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto | 32-true | bf16-mixed | 16-mixed | bf16-true
    halve_on_out_of_memory: bool = True  # on one GPU: half the rows, twice the accumulation
    threads: int | None = None  # of a CPU; null: as many as it has cores
    compile: str = "auto"  # auto | false | model | step: forward and backward as one graph
    chunked_loss: bool = True  # a large vocabulary's logits are never there all at once
    fast_loop: bool = True  # on a CPU: Lightning's training loop in fewer calls
    keep_freed_memory: bool = True  # on a CPU: freed blocks stay with the process, to be used again
    deterministic: bool | None = None  # the same bits each time; null: on a CPU, at no cost
    extra: dict[str, Any] = field(default_factory=dict)  # Lightning's: +trainer.extra.NAME=VALUE


@dataclass
class SamplingConfig:
    """From logits to the next token (gptlab/generation/sampling.py)."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int | None = None  # among the k likeliest
    top_p: float | None = None  # among the likeliest that together have this probability
    min_p: float | None = None  # among those this many times as likely as the likeliest, or more
    repetition_penalty: float = 1.0  # above 1: what the text has already is less likely
    no_repeat_ngram: int | None = None  # no run of so many tokens comes twice
    beams: int = 1  # above 1: beam search, for the likeliest whole text; draws nothing
    length_penalty: float = 1.0  # of beam search: log-probability / length ** this; above 1: longer


@dataclass
class HellaswagConfig:
    """Which continuation is the right one (gptlab/evaluation/hellaswag.py)."""

    path: str | None = None  # the official file; null: fetched once, its hash checked
    rows: int | None = None  # the first so many; null: all
    batch_size: int = 32  # sequences scored at once


@dataclass
class JudgeConfig:
    """A model that judges responses (gptlab/evaluation/judge.py)."""

    url: str | None = None  # of a server that speaks OpenAI's API: http://localhost:11434/v1
    model: str = "llama3.2"  # by the server's name
    api_key_env: str = "OPENAI_API_KEY"  # the environment's variable that holds a key, if any
    timeout: float = 120.0  # to wait for an answer


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"model.n_layer": 4, …}` of a configuration dataclass."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{item.name}."))
        else:
            flat[prefix + item.name] = value
    return flat


@dataclass
class TrainConfig:
    """conf/train.yaml"""

    seed: int = 1337
    resume: str | None = None  # latest, or a run folder: go on where that run stopped
    preflight: str = "auto"  # auto: what takes a moment, before each run | only: all checks, no run
    init_from: str | None = None  # a run or checkpoint whose model a new run goes on to train
    from_scratch: bool = False  # of init_from or model.pretrained take all but the weights
    baseline: bool = True  # classification: beside pretrained weights train random ones too
    baseline_of: str | None = None  # set by training: the run, by its folder's name, it is beside
    name: str | None = None  # the run's; null: from the choices made
    run_root: str = "runs"
    corpus_root: str = "corpora"
    prompt: str | None = None  # of the samples written while training
    num_samples: int = 1  # samples each time
    max_new_tokens: int = 128
    eval_before: list[str] = field(
        default_factory=list
    )  # at step 0: perplexity, samples, hellaswag
    eval_after: list[str] = field(default_factory=lambda: ["perplexity"])  # likewise; also: windows
    log_interpretability: list[str] = field(
        default_factory=lambda: ["attention"]
    )  # also: logit_lens, surprise
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
    num_samples: int = 1  # samples
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
    num_samples: int = 20  # texts written: by overlap, memorisation and stories
    max_new_tokens: int = 200
    prompt: str | None = None  # of stories; null: from the first word on
    batch_size: int = 8  # rows scored at once
    max_tokens: int | None = None  # of each held-out split; null: all
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
    output_dir: str | None = None  # the folder to write
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
    max_queue: int = 8  # requests that may wait for their turn; further ones are told to come back
    max_models: int = 3  # kept in memory; the one that was not used for longest makes room
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
