"""Weights in GPT-2's format come in unchanged: from a folder, a file, or the hub."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gptlab.model.checkpoint import load_checkpoint
from gptlab.model.hf.pretrained import load_model, resolve_pretrained
from gptlab.utils.errors import UserError
from tests.conftest import ROOT

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory) -> Path:
    """A small GPT-2 with random weights as transformers saves it; do not modify."""
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        n_layer=2, n_head=3, n_embd=24, n_positions=32, vocab_size=50257, n_inner=40
    )
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():  # also biases, which start as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("hf") / "gpt2"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def hf_copy(hf_folder: Path, tmp_path: Path) -> Path:
    """The same folder, to modify."""
    return Path(shutil.copytree(hf_folder, tmp_path / "copy"))


IDS = torch.randint(50257, (2, 32), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def hf_logits(hf_folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_folder).eval()
    with torch.no_grad():
        return model(IDS).logits


def assert_same_logits(path: Path, expected: torch.Tensor) -> None:
    with torch.no_grad():
        actual = load_model(path).net(IDS)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.fast
def test_a_folder_and_its_file_compute_the_same_as_transformers(hf_folder, hf_logits) -> None:
    assert resolve_pretrained(str(hf_folder)) == hf_folder
    assert_same_logits(hf_folder, hf_logits)
    assert_same_logits(hf_folder / "model.safetensors", hf_logits)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files_compute_the_same(
    command, hf_folder: Path, hf_logits, tmp_path: Path, suffix: str
) -> None:
    """As transformers writes them, or wrote them before safetensors."""
    folder = tmp_path / "sharded"
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_folder)
    model.save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    if suffix == ".bin":
        index = index.rename(folder / "pytorch_model.bin.index.json")
        index.write_text(
            index.read_text(encoding="utf-8").replace(".safetensors", ".bin"), encoding="utf-8"
        )
        for shard in folder.glob("*.safetensors"):
            torch.save(load_file(shard), shard.with_suffix(".bin"))
            shard.unlink()
    assert len(list(folder.glob(f"*{suffix}"))) > 2
    assert resolve_pretrained(str(folder)) == folder
    assert_same_logits(folder, hf_logits)
    assert_same_logits(index, hf_logits)
    missing = sorted(folder.glob(f"*{suffix}"))[1]
    missing.unlink()
    result = command("train", "tokenizer=gpt2", f"model.pretrained={folder}")
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"{index}: {missing.name} is missing" in result.err


@pytest.mark.parametrize("names", [{}, [], {"a": 1}, {"a": "../secret.bin"}, {"a": []}, None])
def test_a_damaged_index_is_refused(tmp_path: Path, names: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    with pytest.raises(UserError, match="damaged: lists no files of weights"):
        load_model(index)


@pytest.mark.parametrize("style", ["prefixed", "bare", "with masks", "with a head"])
def test_every_style_of_weight_names_is_understood(hf_copy: Path, hf_logits, style: str) -> None:
    weights = load_file(hf_copy / "model.safetensors")
    if style == "bare":
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
    if style == "with masks":
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        weights["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    if style == "with a head":
        weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    (hf_copy / "model.safetensors").unlink()
    torch.save(weights, hf_copy / "pytorch_model.bin")
    assert_same_logits(hf_copy, hf_logits)


def test_every_wrong_weight_is_named_before_any_is_copied(hf_copy: Path) -> None:
    file = hf_copy / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.ln_2.bias"]
    weights["transformer.h.0.extra.weight"] = torch.ones(2)
    weights["transformer.ln_f.weight"] = torch.ones(23)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        load_model(hf_copy)
    message = str(error.value)
    assert "blocks.1.feed_forward_norm.bias is missing" in message and str(file) in message
    assert "final_norm.weight has shape (23,), not (24,)" in message
    assert "extra.weight is unexpected" in message


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
def test_settings_that_gptlab_does_not_implement_are_refused(hf_copy, key, value) -> None:
    settings = json.loads((hf_copy / "config.json").read_text(encoding="utf-8"))
    (hf_copy / "config.json").write_text(json.dumps(settings | {key: value}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{key}={value}"):
        load_model(hf_copy)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "text"])
def test_a_damaged_file_is_refused(command, hf_copy: Path, damage: str) -> None:
    file = hf_copy / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "text":
        file.write_text("no weights", encoding="utf-8")
    else:
        file.unlink()
        torch.save({"wte.weight": Path("x")}, hf_copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="truncated, or not a file of weights"):
        load_model(hf_copy)
    if damage == "pickle":
        result = command("train", "tokenizer=gpt2", f"model.pretrained={hf_copy}")
        assert result.code == 2 and result.err.count("\n") == 1, result.err


def test_a_run_starts_with_exactly_the_pretrained_weights(command, hf_folder, tmp_path) -> None:
    arguments = ["tokenizer=gpt2", "profile=smoke", "trainer.max_steps=1", "optim.lr=0"]
    result = command("train", *arguments, "optim.min_lr=0", f"model.pretrained={hf_folder}")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").iterdir()
    trained = load_checkpoint(run / "checkpoints" / "last.ckpt").net.state_dict()
    for name, weight in load_model(hf_folder).net.state_dict().items():
        assert weight.equal(trained[name]), name
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]["n_head"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.n_layer=7"], "its model has n_layer=2"),
        (["model=small"], "its model has n_layer=2"),
        (["tokenizer=char"], "keeps its vocabulary, gpt2"),
        (["init_from=latest"], "exclude each other"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(
    command, hf_folder: Path, arguments, words
) -> None:
    result = command("train", "profile=smoke", f"model.pretrained={hf_folder}", *arguments)
    assert result.code == 2 and words in result.err, result.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder", "no such file or folder"),
        ("some/model", "HF_HUB_OFFLINE is set"),
        (str(ROOT / "conf"), "has no weights"),
        ("some--model", ""),
        ("gpt2.", ""),
        ("~nouser123/x", ""),
        ("x" * 300, ""),
    ],
)
def test_a_name_without_weights_is_refused(monkeypatch, name: str, words: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"model\.pretrained=") as error:
        resolve_pretrained(name)
    assert words in str(error.value) and "\n" not in str(error.value)


class HubHandler(BaseHTTPRequestHandler):
    """The part of the hub that a download needs."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = self.folder / self.path.rpartition("/")[2]
        exists = "/some/tiny/resolve/" in self.path and file.is_file()
        content = file.read_bytes() if exists else b""
        self.send_response(200 if exists or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(content)))
        if exists:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(hf_folder: Path, tmp_path: Path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A mirror of the hub on this machine, and an empty cache."""
    from huggingface_hub import constants

    handler = type("Handler", (HubHandler,), {"folder": hf_folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    # huggingface_hub reads its environment only when it is imported.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_weights_come_from_a_mirror_once_and_a_damaged_copy_is_noticed(
    mirror: ThreadingHTTPServer, tmp_path: Path
) -> None:
    def width() -> int:
        return load_model(resolve_pretrained("some/tiny")).net.config.d_model

    assert width() == 24
    mirror.shutdown()
    mirror.server_close()
    assert width() == 24  # from the cache
    (blob,) = (p for p in (tmp_path / "cache").rglob("blobs/*") if p.stat().st_size > 100_000)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(UserError, match="its hash differs"):
        width()


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
def test_a_damaged_gptlab_json_is_refused(hf_copy: Path, content: dict) -> None:
    valid = {"tokenizer": {"name": "gpt2"}, "eot_first": True, "step": 1, "window": None}
    (hf_copy / "gptlab.json").write_text(json.dumps(valid), encoding="utf-8")
    assert load_model(hf_copy).step == 1
    (hf_copy / "gptlab.json").write_text(json.dumps(valid | content), encoding="utf-8")
    with pytest.raises(UserError):
        load_model(hf_copy)
