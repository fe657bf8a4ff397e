"""Weights of GPT-2 in, and our models out, against Hugging Face's transformers."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gptlab.model.checkpoint import load_checkpoint
from gptlab.model.hf.pretrained import load_model, resolve_pretrained
from gptlab.utils.errors import UserError
from tests.conftest import ROOT, TINY

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

AS_GPT2 = ["tokenizer=gpt2", "model.position=learned", "model.feed_forward=gelu_tanh"]
AS_LLAMA = ["model.norm_type=rmsnorm", "model.feed_forward=swiglu", "model.bias=false"]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A small GPT-2 of random weights in a folder, as transformers writes it."""
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        n_layer=2, n_head=3, n_embd=24, n_positions=32, vocab_size=50257, n_inner=40
    )
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():  # biases too, which begin as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(ids).logits


def check_same(theirs: Path, path: Path) -> None:
    ids = torch.randint(50257, (2, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = load_model(path).net(ids)
    wanted = logits(theirs, ids)
    assert (ours - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_folder_computes_the_same(theirs: Path) -> None:
    check_same(theirs, theirs)
    check_same(theirs, theirs / "model.safetensors")


@pytest.mark.parametrize("style", ["prefixed", "bare", "with masks", "with a head"])
def test_every_style_of_names_computes_the_same(theirs: Path, style: str) -> None:
    weights = load_file(theirs / "model.safetensors")
    if style == "bare":
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
    if style == "with masks":
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        weights["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    if style == "with a head":
        weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    kept = theirs.parent / "kept"
    shutil.copytree(theirs, kept)
    (theirs / "model.safetensors").unlink()
    torch.save(weights, theirs / "pytorch_model.bin")
    check_same(kept, theirs)


def test_every_wrong_weight_is_named_before_anything_is_copied(theirs: Path) -> None:
    file = theirs / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.ln_2.bias"]
    weights["transformer.h.0.extra.weight"] = torch.ones(2)
    weights["transformer.ln_f.weight"] = torch.ones(23)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as refused:
        load_model(theirs)
    told = str(refused.value)
    assert "blocks.1.feed_forward_norm.bias is missing" in told
    assert "final_norm.weight has shape (23,)" in told
    assert "extra.weight is unexpected" in told and str(file) in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("activation_function", "swish"),
        ("model_type", "bloom"),
        ("n_head", 5),
    ],
)
def test_what_would_compute_something_else_is_refused(
    theirs: Path, key: str, value: object
) -> None:
    settings = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(settings | {key: value}))
    with pytest.raises(UserError, match=f"{key}={value}"):
        load_model(theirs)


@pytest.mark.parametrize("damage", ["cut", "pickle", "text"])
def test_a_damaged_file_is_one_line(command, theirs: Path, damage: str) -> None:
    file = theirs / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "text":
        file.write_text("no weights")
    else:
        file.unlink()
        torch.save({"wte.weight": Path("x")}, theirs / "pytorch_model.bin")
    result = command("train", "tokenizer=gpt2", f"model.pretrained={theirs}")
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert "truncated, or not a file of weights" in result.err


def test_a_run_that_begins_with_them_is_them_at_step_0(command, theirs: Path, tmp_path) -> None:
    more = ["tokenizer=gpt2", "profile=smoke", "trainer.checkpoint_every=1", "optim.lr=0"]
    result = command("train", *more, "optim.min_lr=0", f"model.pretrained={theirs}")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    trained = load_checkpoint(run / "checkpoints" / "last.ckpt").net.state_dict()
    for name, weight in load_model(theirs).net.state_dict().items():
        assert weight.equal(trained[name]), name
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["n_head"] == 3


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["model.n_layer=7"], "its model has n_layer=2"),
        (["model=small"], "its model has n_layer=2"),
        (["tokenizer=char"], "keeps its vocabulary, gpt2"),
        (["init_from=latest"], "give one of them"),
    ],
)
def test_what_contradicts_them_is_refused(command, theirs: Path, typed, words) -> None:
    result = command("train", "profile=smoke", f"model.pretrained={theirs}", *typed)
    assert result.code == 2 and words in result.err, result.err


def test_a_name_that_is_nothing_is_one_line(command, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, words in (
        ("no/such/folder", "no such file or folder"),
        ("some/model", "cannot reach"),
        (str(ROOT / "conf"), "has no weights"),
    ):
        result = command("train", "tokenizer=gpt2", f"model.pretrained={name}")
        assert result.code == 2 and words in result.err, result.err
        assert result.err.count("\n") == 1


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        import hashlib

        file = self.folder / self.path.rpartition("/")[2]
        there = "/some/tiny/resolve/" in self.path and file.is_file()
        content = file.read_bytes() if there else b""
        self.send_response(200 if there or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(content)))
        if there:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_mirror_of_the_hub_serves_them_once_and_a_damaged_copy_is_seen(theirs, tmp_path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"folder": theirs}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from gptlab.model.hf.pretrained import *\n"
        "try: print(load_model(resolve_pretrained('some/tiny')).net.config.d_model)\n"
        "except UserError as error: print(error)"
    )
    here = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
    }

    def look() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | here, capture_output=True
        )
        return done.stdout.decode()

    assert look() == "24\n"
    server.shutdown()
    server.server_close()
    assert look() == "24\n"  # of the cache
    (blob,) = (p for p in (tmp_path / "cache").rglob("blobs/*") if p.stat().st_size > 100_000)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    assert "its hash differs" in look()


def exported(command, tmp_path: Path, *overrides: str) -> tuple[Path, Path]:
    """A run's folder, and the folder that it was exported to."""
    more = ["profile=smoke", "model.n_layer=2", "model.context_length=128", *overrides]
    result = command("train", *TINY[1:], *more)
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    result = command("export", "run=latest", "output_dir=out")
    assert result.code == 0, result.err
    return run, tmp_path / "out"


@pytest.fixture
def command(command, monkeypatch):
    """Also for the modules of the package."""

    def run(module: str, *arguments: str):
        return command({"export": "gptlab.export"}.get(module, module), *arguments)

    return run


@pytest.mark.parametrize(
    "overrides", [AS_GPT2, [*AS_GPT2, "model.tied_head=false"], ["tokenizer=char", *AS_LLAMA]]
)
def test_an_exported_model_is_the_same_to_transformers_and_to_us(
    command, tmp_path: Path, overrides: list[str]
) -> None:
    run, out = exported(command, tmp_path, *overrides)
    ours = load_checkpoint(run / "checkpoints" / "best.ckpt")
    text = "Once upon a time, there was a boy named Tom. He loved to read"
    ids = ours.tokenizer.encode(text)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == text and tokenizer.eos_token_id == ours.tokenizer.eot
    with torch.no_grad():
        difference = ours.net(torch.tensor([ids])) - logits(out, torch.tensor([ids]))
    assert difference.abs().max() < 1e-5
    back = load_model(out)
    for name, weight in ours.net.state_dict().items():
        assert weight.equal(back.net.state_dict()[name]), name
    assert back.tokenizer.state() == ours.tokenizer.state()
    assert (back.step, back.eot_first) == (ours.step, ours.eot_first)
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    prompt = torch.tensor([[ours.tokenizer.eot] * ours.eot_first + ids[:5]])
    longer = model.generate(prompt, do_sample=False, min_new_tokens=100, max_new_tokens=100)
    result = command(
        *("generate", "run=out", "sampling=greedy", "max_new_tokens=100", "save_as=text"),
        f"prompt={tokenizer.decode(ids[:5])}",
    )
    assert result.code == 0, result.err
    told = json.loads(Path("text.json").read_text())["samples"][0]
    assert told["ended"] == "length"  # theirs was not let end
    wanted = longer[0, prompt.shape[1] :].tolist()
    assert [token["id"] for token in told["tokens"]] == wanted


def test_what_no_format_can_say_is_refused_with_what_differs(command, tmp_path: Path) -> None:
    assert command("train", *TINY, "profile=smoke", "model.norm=post").code == 0
    result = command("export", "run=latest", "output_dir=out")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "model.norm=post" in result.err and "model.position=rotary" in result.err
    assert not (tmp_path / "out").exists()
    result = command("train", *TINY, "profile=smoke", *AS_GPT2[1:], "name=words")
    result = command("export", "run=latest", "output_dir=out")
    assert result.code == 2 and "no tokenizer like words" in result.err


def test_a_folder_that_is_there_is_not_written_to(command, trained, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for to in ("output_dir=out", "output_dir=null"):
        result = command("export", "run=latest", to)
        assert result.code == 2 and "name" in result.err


def test_it_opens_what_find_finds(theirs: Path) -> None:
    assert resolve_pretrained(str(theirs)) == theirs


@pytest.mark.parametrize(
    "content",
    [
        {"data": [1]},
        {"data": None},
        {"step": float("inf")},
        {"window": -5},
        {"data": {"task": "instructions"}},
        {"tokenizer": {"name": "none"}},
    ],
)
def test_what_stands_beside_weights_may_be_damaged(theirs: Path, content: dict) -> None:
    whole = {"tokenizer": {"name": "gpt2"}, "eot_first": True, "step": 1, "window": None}
    (theirs / "gptlab.json").write_text(json.dumps(whole | content))
    with pytest.raises(UserError):
        load_model(theirs)


@pytest.mark.parametrize(
    "content",
    [
        {"num_attention_heads": 5},
        {"num_hidden_layers": float("inf")},
        {"max_position_embeddings": 0},
        {"rope_theta": 5.0},
        {"num_key_value_heads": 1},
    ],
)
def test_a_strange_llama_is_refused(command, tmp_path: Path, content: dict) -> None:
    _, out = exported(command, tmp_path, "tokenizer=char", *AS_LLAMA)
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | content))
    with pytest.raises(UserError):
        load_model(out)


@pytest.mark.parametrize("name", ["some--model", "gpt2.", "~nouser123/x", "x" * 300])
def test_names_that_no_hub_has(command, monkeypatch, name: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = command("train", "tokenizer=gpt2", f"model.pretrained={name}")
    assert result.code == 2 and result.err.count("\n") == 1, result.err
