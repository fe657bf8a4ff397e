"""An exported model is the same to transformers and to gptlab."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.config.schema import ExportConfig, ModelConfig, SamplingConfig, TokenizerConfig
from gptlab.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, WordTokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.checkpoint import load_checkpoint
from gptlab.model.gpt import GPT
from gptlab.model.hf.export import export_model
from gptlab.model.hf.pretrained import load_model
from gptlab.utils.errors import UserError

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

TEXT = "Once upon a time, there was a boy named Tom. He loved to read"
AS_GPT2 = {"position": "learned", "feed_forward": "gelu_tanh"}
AS_LLAMA = {
    "position": "rotary", "norm_type": "rmsnorm", "feed_forward": "swiglu", "bias": False
}  # fmt: skip


def write_checkpoint(folder: Path, tokenizer: Tokenizer, **model: Any) -> Path:
    """Write a checkpoint with random weights, as training would."""
    torch.manual_seed(3)
    config = ModelConfig(
        n_layer=2, n_head=2, d_model=16, context_length=128, vocab_size=tokenizer.vocab_size,
        init_std=0.4, **model,
    )  # fmt: skip
    weights = {f"net.{name}": weight for name, weight in GPT(config).state_dict().items()}
    data = {"eot_first": True, "task": "text"}
    content = {
        "state_dict": weights,
        "config": {"model": vars(config), "data": data},
        "tokenizer": tokenizer.state(),
        "global_step": 7,
    }
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt"


def export(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "exported"
    export_model(ExportConfig(run=str(checkpoint), output_dir=str(folder)))
    return folder


def char_tokenizer() -> CharTokenizer:
    return CharTokenizer.train([TEXT], TokenizerConfig())


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    return export(write_checkpoint(folder, char_tokenizer(), **AS_LLAMA))


@pytest.mark.parametrize(
    ("tokenizer_class", "model"),
    [
        (GPT2Tokenizer, AS_GPT2),
        (GPT2Tokenizer, AS_GPT2 | {"tied_head": False, "trained_length": 100}),
        (CharTokenizer, AS_LLAMA),
    ],
)
def test_an_exported_model_is_the_same_to_transformers_and_to_gptlab(
    tmp_path: Path, tokenizer_class, model: dict
) -> None:
    tokenizer = tokenizer_class.train([TEXT], TokenizerConfig())
    checkpoint = write_checkpoint(tmp_path, tokenizer, **model)
    folder, original = export(checkpoint), load_checkpoint(checkpoint)
    ids = tokenizer.encode(TEXT)
    hf_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert hf_tokenizer.encode(TEXT, add_special_tokens=False) == ids
    assert hf_tokenizer.decode(ids) == TEXT and hf_tokenizer.eos_token_id == tokenizer.eot
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        hf_logits = hf_model(torch.tensor([ids])).logits
        difference = original.net(torch.tensor([ids])) - hf_logits
    assert difference.abs().max() < 1e-5
    restored = load_model(folder)
    for name, weight in original.net.state_dict().items():
        assert weight.equal(restored.net.state_dict()[name]), name
    assert restored.tokenizer.state() == tokenizer.state()
    assert restored.net.config.window == original.net.config.window
    assert (restored.step, restored.eot_first) == (7, True)
    greedy, generated = SamplingConfig(temperature=0.0), set()
    for length in (1, 2, 4, 8):
        prompt = ids[:length]
        longer = hf_model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20)
        request = GenerationRequest(restored.net, tokenizer, prompt, greedy, max_new_tokens=20)
        (sample,) = generate_samples(request)
        assert sample.predicted_tokens == longer[0, length:].tolist()
        generated.update(sample.predicted_tokens)
    assert len(generated) > 3


def test_a_run_is_exported_and_its_export_generates(command) -> None:
    arguments = ["model.n_layer=1", "model.n_head=2", "model.d_model=16", "profile=smoke"]
    char = ["tokenizer=char", "model.feed_forward=swiglu", "model.norm_type=rmsnorm"]
    result = command("train", *arguments, *char, "model.bias=false", "trainer.max_steps=1")
    assert result.code == 0, result.err
    result = command("gptlab.export", "run=latest", "output_dir=out")
    assert result.code == 0 and "model.safetensors" in result.out, result.err
    texts = [
        command("generate", f"run={run}", "prompt=Once", "max_new_tokens=20").out
        for run in ("latest", "out")
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 5


def test_unsupported_models_are_refused_with_the_differing_settings(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, char_tokenizer(), norm="post", position="rotary")
    with pytest.raises(UserError, match=r"model\.norm=post.*model\.position=rotary"):
        export(checkpoint)
    words = WordTokenizer.train([TEXT], TokenizerConfig())
    with pytest.raises(UserError, match="no tokenizer like words"):
        export(write_checkpoint(tmp_path, words, **AS_GPT2))
    assert not (tmp_path / "exported").exists()


def test_export_needs_the_name_of_a_new_folder(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, char_tokenizer(), **AS_LLAMA)
    for output_dir in (str(tmp_path), None):
        with pytest.raises(UserError, match="name "):
            export_model(ExportConfig(run=str(checkpoint), output_dir=output_dir))


@pytest.mark.parametrize(
    "content",
    [
        {"num_attention_heads": 5},
        {"num_hidden_layers": float("inf")},
        {"max_position_embeddings": 0},
        {"rope_theta": 5.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"num_key_value_heads": 1},
    ],
)
def test_a_llama_that_gptlab_does_not_implement_is_refused(llama_folder, content: dict) -> None:
    file = llama_folder / "config.json"
    original = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(original) | content), encoding="utf-8")
    try:
        with pytest.raises(UserError):
            load_model(llama_folder)
    finally:
        file.write_text(original, encoding="utf-8")
    load_model(llama_folder)
