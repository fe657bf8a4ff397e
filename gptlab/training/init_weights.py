"""Initialize a new run's weights: random, from another run, or from pretrained GPT-2."""

from collections.abc import Iterable
from dataclasses import fields, replace

from gptlab.config import sweeps
from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import Tokenizer, UnknownCharactersError, VocabularyTokenizer
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.hf.pretrained import load_model, resolve_pretrained
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError
from gptlab.utils.plugins import is_reference

# A finetuned model keeps its structure: all settings except these.
CHANGEABLE_MODEL_KEYS = {
    *("dropout", "attention_dropout", "attention", "init_std", "pretrained", "trained_length"),
    "n_classes",  # set by the data
}
STRUCTURE_KEYS = [f.name for f in fields(ModelConfig) if f.name not in CHANGEABLE_MODEL_KEYS]


def structure_keys(structure: ModelConfig) -> list[str]:
    """Return the keys of a model that finetuning cannot change."""
    # fused and eager attention compute the same; another package's function may not.
    return [*STRUCTURE_KEYS, *["attention"] * is_reference(structure.attention)]


def prefer_init_from(config: TrainConfig, overrides: Iterable[str]) -> TrainConfig:
    """Let init_from replace a default model.pretrained; raise UserError if both were typed."""
    if not (config.init_from and config.model.pretrained):
        return config
    if "model.pretrained" in map(sweeps.override_key, overrides):
        raise UserError("init_from and model.pretrained exclude each other: leave one of them out")
    return replace(config, model=replace(config.model, pretrained=None))


def load_initial_model(config: TrainConfig, overrides: Iterable[str]) -> LoadedModel | None:
    """Load the model that a new run starts from; None means random weights.

    Raises UserError if there is no such model, or if an override contradicts its structure.
    """
    if config.init_from:
        key = f"init_from={config.init_from}"
        path = run_dir.find_checkpoint(config.init_from, config.run_root, "init_from")
    elif config.model.pretrained:
        key = f"model.pretrained={config.model.pretrained}"
        path = resolve_pretrained(config.model.pretrained)
    else:
        return None
    initial = load_model(path)
    structure, tokenizer = initial.net.config, initial.tokenizer
    if structure.n_classes and config.data.task != "classification":
        raise UserError(f"{key}: is a classifier and cannot generate text")
    overridden = {sweeps.override_key(override) for override in overrides}
    for name in structure_keys(structure):
        value, requested = getattr(structure, name), getattr(config.model, name)
        if name == "d_ff":
            value = value or 4 * structure.d_model
            requested = requested or 4 * config.model.d_model
        in_group = "model" in overridden and name != "vocab_size"
        if (in_group or f"model.{name}" in overridden) and requested != value:
            raise UserError(
                f"{key}: its model has {name}={value}, and a finetuned model keeps its "
                f"structure; leave model.{name}={requested} out"
            )
    vocabulary = tokenizer.state()["name"]
    if "tokenizer" in overridden and config.tokenizer.name != vocabulary:
        raise UserError(
            f"{key}: a finetuned model keeps its vocabulary, {vocabulary}; leave "
            f"tokenizer={config.tokenizer.name} out"
        )
    if isinstance(tokenizer, VocabularyTokenizer):
        tokenizer.unknown = config.tokenizer.unknown
    return initial


def required_tokenizer(tokenizer: Tokenizer | None, config: TrainConfig) -> Tokenizer | None:
    """Return the tokenizer to build the corpus with, or None for the configured one."""
    if tokenizer is None or tokenizer.state()["name"] == config.tokenizer.name == "gpt2":
        return None
    return tokenizer


def open_training_corpus(config: TrainConfig, initial: LoadedModel | None) -> Corpus:
    """Open or build the corpus of a new run, in the vocabulary of its initial model."""
    tokenizer = required_tokenizer(initial.tokenizer if initial else None, config)
    settings = config.data, config.tokenizer, config.seed, config.corpus_root
    try:
        return open_corpus(*settings, tokenizer_override=tokenizer)
    except UnknownCharactersError as error:
        if tokenizer is None:
            raise
        alternative = "or start from a run with tokenizer=gpt2, which can encode any text"
        raise UserError(f"init_from={config.init_from}: {error}; {alternative}") from None


def adopt_structure(config: ModelConfig, structure: ModelConfig) -> ModelConfig:
    """Return `config` with the initial model's structure."""
    settings = {name: getattr(structure, name) for name in structure_keys(structure)}
    return replace(config, **settings, trained_length=structure.trained_length)


def copy_initial_weights(net: GPT, initial: LoadedModel, classes: list[str] | None) -> None:
    """Copy all weights, except a head with other outputs, into `net`."""
    weights = initial.net.state_dict()
    if initial.metadata.get("classes") != classes:
        weights = {name: w for name, w in weights.items() if not name.startswith("head.")}
        weights |= {name: w for name, w in net.state_dict().items() if name.startswith("head.")}
    net.load_state_dict(weights)
