"""What a new run begins with: random weights, another run's, or GPT-2's."""

from collections.abc import Iterable
from dataclasses import fields, replace

from gptlab.config.schema import ModelConfig, TrainConfig
from gptlab.data.tokenizer import Tokenizer, VocabularyTokenizer
from gptlab.model.checkpoint import LoadedModel
from gptlab.model.gpt import GPT
from gptlab.model.hf.pretrained import load_model, resolve_pretrained
from gptlab.utils import run_dir
from gptlab.utils.errors import UserError

# A model that is trained on keeps its structure; of its settings these may be others.
CHANGEABLE_KEYS = {
    "dropout",
    "attention_dropout",
    "attention",
    "init_std",
    "pretrained",
    "trained_length",
}
CHANGEABLE_KEYS |= {"n_classes"}  # decided by the data
STRUCTURE_KEYS = [item.name for item in fields(ModelConfig) if item.name not in CHANGEABLE_KEYS]


def prefer_init_from(config: TrainConfig, typed: Iterable[str]) -> TrainConfig:
    """`init_from` goes before the `model.pretrained` of an experiment.

    Raises UserError where both were typed.
    """
    if not (config.init_from and config.model.pretrained):
        return config
    if any(argument.partition("=")[0] == "model.pretrained" for argument in typed):
        raise UserError("init_from and model.pretrained: give one of them")
    return replace(config, model=replace(config.model, pretrained=None))


def load_initial_model(config: TrainConfig, typed: Iterable[str]) -> LoadedModel | None:
    """The model that a new run begins with; None: with random weights.

    Raises UserError where there is none, or where what was typed contradicts it.
    """
    if config.init_from:
        key = f"init_from={config.init_from}"
        start = load_model(run_dir.find_checkpoint(config.init_from, config.run_root, "init_from"))
    elif config.model.pretrained:
        key = f"model.pretrained={config.model.pretrained}"
        start = load_model(resolve_pretrained(config.model.pretrained))
    else:
        return None
    its = start.net.config
    if its.n_classes and config.data.task != "classification":
        raise UserError(f"{key}: its model tells classes apart and cannot write")
    names = {argument.partition("=")[0].lstrip("+") for argument in typed}
    for name in STRUCTURE_KEYS:
        value, wanted = getattr(its, name), getattr(config.model, name)
        if name == "d_ff":
            value, wanted = value or 4 * its.d_model, wanted or 4 * config.model.d_model
        asked = f"model.{name}" in names or ("model" in names and name != "vocab_size")
        if asked and wanted != value:
            raise UserError(
                f"{key}: its model has {name}={value}, and a model that is trained on keeps its "
                f"structure; leave model.{name}={wanted} out"
            )
    chosen = start.tokenizer.state()["name"]
    if "tokenizer" in names and config.tokenizer.name != chosen:
        raise UserError(
            f"{key}: a model that is trained on keeps its vocabulary, {chosen}; leave "
            f"tokenizer={config.tokenizer.name} out"
        )
    if isinstance(start.tokenizer, VocabularyTokenizer):
        start.tokenizer.unknown = config.tokenizer.unknown
    return start


def required_tokenizer(tokenizer: Tokenizer | None, config: TrainConfig) -> Tokenizer | None:
    """The tokenizer that the corpus has to be made with, where the configuration's is another."""
    if tokenizer is None or tokenizer.state()["name"] == config.tokenizer.name == "gpt2":
        return None
    return tokenizer


def adopt_structure(wanted: ModelConfig, its: ModelConfig) -> ModelConfig:
    """The configuration with the structure of the model that the run begins with."""
    structure = {name: getattr(its, name) for name in STRUCTURE_KEYS}
    return replace(wanted, **structure, trained_length=its.trained_length)


def copy_initial_weights(net: GPT, start: LoadedModel, classes: list[str] | None) -> None:
    """Copies all weights that the two have in common: all but the head of other outputs."""
    weights = start.net.state_dict()
    if start.metadata.get("classes") != classes:
        weights = {name: w for name, w in weights.items() if not name.startswith("head.")}
        weights |= {n: w for n, w in net.state_dict().items() if n.startswith("head.")}
    net.load_state_dict(weights)
