"""What users type, beyond the README: prompts, mistakes, own text, the hub."""

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.config.schema import ModelConfig
from gptlab.data.corpus import Corpus
from gptlab.data.toy.stories import story_grammar
from gptlab.generation.engine import generate_samples
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT
from tests.conftest import ROOT, TINY, files_below


def test_a_prompt_is_read_from_a_file(command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "opening.txt").write_text("Long ago", encoding="utf-8")
    result = command("generate", "prompt_file=opening.txt", "sampling=greedy", "max_new_tokens=3")
    assert result.code == 0 and result.out.startswith("Long ago")


def test_tensorboard_serves_a_run(trained: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(trained.parent), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8",
    )  # fmt: skip
    try:
        for line in server.stdout:
            if found := re.search(r"http://[\w.]+:(\d+)/", line):
                break
        url = f"http://127.0.0.1:{found[1]}/data/runs"
        for _ in range(40):
            answer = urllib.request.urlopen(url).read().decode()
            if trained.name in answer:
                break
            time.sleep(0.25)
        assert trained.name in answer
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("model", [p.stem for p in sorted((ROOT / "conf" / "model").glob("*"))])
def test_every_model_choice_trains_and_generates(command, toy_corpus: Corpus, model: str) -> None:
    """At a small size: loss, gradient and text of the parts that the choice names."""
    width = {"medium": 32, "large": 40, "xl": 50}.get(model, 24)  # the number of heads divides it
    sizes = ["model.n_layer=1", f"model.d_model={width}", "model.context_length=64"]
    shown = command("train", f"model={model}", *sizes, "--cfg", "job", "--package", "model")
    vocab_size = toy_corpus.tokenizer.vocab_size
    config = ModelConfig(**yaml.safe_load(shown.out) | {"vocab_size": vocab_size})
    net = GPT(config)
    ids_1xT = torch.arange(9)[None]
    net(ids_1xT[:, :-1], ids_1xT[:, 1:]).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    request = GenerationRequest(net, toy_corpus.tokenizer, [0], max_new_tokens=3)
    (sample,) = generate_samples(request)
    assert sample.new_tokens


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt="], "prompt is empty"),
        (["prompt=Once xyzzy", "unknown=error"], "lacks: ' xyzzy'"),
        (["prompt=Once", "run=nowhere"], "run=nowhere: no such run folder"),
        (["prompt=Once", "run=corpora"], "this folder has no checkpoint"),
        (["prompt=Once", "prompt_file=x"], "give one of them"),
        (["prompt_file=missing.txt"], "prompt_file=missing.txt: No such file"),
        (["prompt=Once", "sampling.top_k=0"], "sampling.top_k=0 must be at least 1"),
        (["prompt=Once", "sampling.temperature=-1"], "sampling.temperature=-1.0 must be from 0"),
        (["prompt=Once", "sampling.top_p=1.5"], "sampling.top_p=1.5 must be above 0 and at most 1"),
        (["prompt=Once", "max_new_tokens=0"], "max_new_tokens=0 must be at least 1"),
        (["-m", "prompt=Once", "seed=1,2"], "-m: only training runs sweeps"),
        (["prompt=Once", "model.n_layer=2"], "model: unknown key"),
        (["prompt=Once", "run=~nobody"], "run=~nobody: "),
        (["prompt=Once", "sampling=topk"], "did you mean 'top_k'?"),
        (["prompt=Once", "init_from=latest"], "init_from: unknown key; did you mean 'run'?"),
        (["prompt=Once", "resume=latest"], "resume: unknown key; did you mean 'run'?"),
        (["promt=Once"], "promt: unknown key; did you mean 'prompt'?"),
    ],
)
def test_invalid_generate_arguments_give_a_one_line_error(
    command, trained: Path, arguments, words
) -> None:
    result = command("generate", *arguments)
    assert result.code == 2
    assert words in result.err and result.err.count("\n") == 1
    assert result.out == ""


def test_generate_without_a_run_says_how_to_train_one(command) -> None:
    result = command("generate", "prompt=Once")
    assert result.code == 2 and "train one with `python train.py`" in result.err


@pytest.mark.parametrize("prompt", ["The cat sat on the mat", "My Dog likes pizza", "Он сказал he"])
def test_any_prompt_generates_and_what_is_skipped_is_named(command, trained, prompt) -> None:
    result = command("generate", f"prompt={prompt}", "max_new_tokens=2")
    assert result.code == 0 and result.out.startswith(prompt)
    lines = result.err.splitlines()
    assert len(lines) == 3 and lines[1].startswith("skipped, because the model never saw it: ")


def test_a_prompt_of_which_nothing_is_left_starts_from_nothing(command, trained: Path) -> None:
    nothing = command("generate", "max_new_tokens=5")
    result = command("generate", "prompt=Hello", "max_new_tokens=5")
    assert result.code == 0 and '"Hello"; nothing is left' in result.err
    assert result.out == nothing.out


def test_samples_in_training_take_any_prompt(command, tmp_path: Path) -> None:
    result = command("train", *TINY, "profile=smoke", "prompt=Hello the Dog")
    assert result.code == 0
    notes = [line for line in result.err.splitlines() if "never saw" in line]
    assert notes == [
        'prompt: skipped, because the model never saw it: "Hello"; read "Dog" as "dog"'
    ]
    assert "  step 2: the dog" in result.out + result.err


def test_a_corpus_with_unknown_words_is_refused(command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Hello there, pizza again. " * 90, encoding="utf-8")
    other = ["data=text", "data.path=own.txt", f"init_from={trained}", "profile=smoke"]
    result = command("train", *other)
    assert result.code == 2 and "vocabulary lacks" in result.err


@pytest.mark.parametrize("text", ["Hello, I'm", "a=b ${c} {d}", "two\nlines", "مرحبا 🦊", "\\"])
def test_a_prompt_arrives_exactly_as_typed(command, tmp_path: Path, text: str) -> None:
    small = [*TINY, "profile=smoke", "data.path=own.txt", "tokenizer=gpt2", "data=text"]
    (tmp_path / "own.txt").write_text("Once there was a fox.\n" * 60, encoding="utf-8")
    assert command("train", *small, "trainer.max_steps=1", f"prompt={text}").code == 0
    result = command("generate", f"prompt={text}", "max_new_tokens=2", "seed=3")
    assert result.code == 0 and result.out.startswith(text)


def test_the_same_seed_generates_the_same_text(command, trained: Path) -> None:
    texts = [command("generate", "prompt=Once", f"seed={seed}").out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_unreachable_hub_is_tried_once(command, tmp_path: Path, monkeypatch) -> None:
    attempts = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        attempts.append(timeout)
        raise ConnectionRefusedError("connection refused")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    result = command("train", "model=gpt2_4layer", "data=tinystories")
    assert result.code == 2 and "connection refused" in result.err
    assert len(attempts) == 1 and attempts[0] <= 5
    assert "data.path=FILE" in result.err and result.err.count("\n") == 1
    assert not files_below(tmp_path)


def test_downloaded_text_is_kept_for_another_tokenizer(command, hub: Path, tmp_path: Path) -> None:
    first = ["data=tinystories", f"data.hub={hub}"]
    assert command("gptlab.prepare", *first).code == 0
    raw = [name for name in files_below(tmp_path / "corpora") if name.startswith("raw/")]
    assert sorted(Path(name).name for name in raw) == ["train.jsonl", "valid.jsonl"]
    import datasets

    calls = []
    original, datasets.load_dataset = datasets.load_dataset, lambda *a, **k: calls.append(a)
    try:
        assert command("gptlab.prepare", *first, "tokenizer=words").code == 0
    finally:
        datasets.load_dataset = original
    assert not calls


def test_own_text_of_one_kilobyte_trains(command, tmp_path: Path) -> None:
    story = " ".join(story_grammar().generate(3, i).text for i in range(3))[:1024]
    (tmp_path / "own.txt").write_text(story, encoding="utf-8")
    result = command(
        "train", "data=text", "data.path=own.txt", "model.d_model=16", "model.n_head=2"
    )
    assert result.code == 0, result.err
    assert "the text is short: context" in result.out and "steps instead of" in result.out
    assert result.out.count("  step ") == 5
    result = command("generate", "max_new_tokens=20")
    assert result.code == 0 and len(result.out) > 5


def test_the_advice_for_a_text_of_one_document_helps(command, tmp_path: Path) -> None:
    lines = (story_grammar().generate(3, i).text.replace("\n", " ") for i in range(40))
    (tmp_path / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    typed = [*TINY, "data=text", "data.path=own.txt", "trainer.max_steps=1", "num_samples=2"]
    result = command("train", *typed, "eval_after=[perplexity,bleu_rouge]", "max_new_tokens=5")
    assert result.code == 2 and result.err.count("\n") == 1
    (advice,) = re.findall(r"data\.document_boundary=line", result.err)
    result = command("train", *typed, "eval_after=[perplexity,bleu_rouge]", advice)
    assert result.code == 0, result.err


def test_invalid_text_gives_a_one_line_error_and_leaves_no_files(command, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "three.txt").write_text("abc", encoding="utf-8")
    for name in ("empty.txt", "three.txt", "missing.txt"):
        result = command("train", "data=text", f"data.path={name}")
        assert result.code == 2 and result.err.count("\n") == 1
    assert command("train", "data=text").code == 2
    assert not (tmp_path / "runs").exists()
    assert not files_below(tmp_path / "corpora")
