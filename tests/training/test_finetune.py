"""Finetuning: LoRA and frozen weights, classifiers, instructions."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from gptlab.data.corpus import Corpus
from gptlab.data.tokenizer import decode
from gptlab.evaluation import responses
from gptlab.evaluation.classification import class_probabilities
from gptlab.model.checkpoint import load_checkpoint, read_checkpoint
from tests.conftest import TINY

QUICK = ["data.max_samples=300", "trainer.max_steps=6", "trainer.sample_every=3", "logger=none"]
QUICK += ["data.batch_size=4"]


def runs(tmp_path: Path) -> list[Path]:
    """All runs, oldest first."""
    return sorted(
        (tmp_path / "runs").iterdir(), key=lambda run: (run / "config.yaml").stat().st_mtime
    )


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state = read_checkpoint(run / "checkpoints" / f"{name}.ckpt")["state_dict"]
    return {key.removeprefix("net."): value for key, value in state.items() if key[:4] == "net."}


@pytest.mark.parametrize("finetune", ["head", "last_block", "lora"])
def test_frozen_weights_keep_their_bits(command, trained: Path, tmp_path, finetune) -> None:
    typed = ["data=toy_spam", *QUICK, f"init_from={trained}", "baseline=false"]
    result = command("train", *typed)
    assert result.code == 2 and "the model's vocabulary lacks" in result.err
    typed += ["trainer.checkpoint_every=3", "trainer.keep_step_checkpoints=true"]
    typed += ["tokenizer.unknown=skip", f"finetune={finetune}", "finetune.lora_rank=null"]
    if finetune == "lora":
        typed[-1] = "finetune.lora_rank=2"
    result = command("train", *typed)
    assert result.code == 0, result.err
    assert f"from {trained}" in result.out and " trained): 1 layer" in result.out
    before, after = weights(trained, "best"), weights(runs(tmp_path)[-1])
    moved = {name for name, weight in after.items() if not weight.equal(before.get(name, weight))}
    head = [run / "checkpoints" / "step_3.ckpt" for run in runs(tmp_path)[-1:]]
    assert not load_checkpoint(head[0]).net.head.weight.equal(
        after["head.weight"]
    )  # which is a new one
    moved.remove("head.weight")
    assert all(after[name].any() for name in after if "lora_up" in name)
    if finetune == "last_block":
        assert moved and all(n.startswith(("blocks.0.", "final_norm.")) for n in moved)
    else:
        assert not moved
    assert (finetune == "lora") == any("lora" in name for name in after)
    assert after["head.weight"].shape[0] == 2 and after["head.weight"].abs().sum() > 0


def test_a_classifier_keeps_vocabulary_and_structure_of_its_initial_model(
    command, trained: Path, tmp_path: Path
) -> None:
    typed = ["data=toy_spam", *QUICK, f"init_from={trained}", "tokenizer.unknown=skip"]
    result = command("train", *typed)
    assert result.code == 0, result.err
    _, mine, random = runs(tmp_path)
    assert random.name.endswith("_random")
    initial, finetuned, baseline_model = (
        load_checkpoint(trained / "checkpoints" / "best.ckpt"),
        *(load_checkpoint(run / "checkpoints" / "last.ckpt") for run in (mine, random)),
    )
    assert finetuned.tokenizer.pieces == baseline_model.tokenizer.pieces == initial.tokenizer.pieces
    assert finetuned.net.config.d_model == baseline_model.net.config.d_model == 16
    summary = json.loads((mine / "summary.json").read_text(encoding="utf-8"))
    baseline = json.loads((random / "summary.json").read_text(encoding="utf-8"))
    for name in ("accuracy", "f1", "loss"):
        assert summary["after"][f"random/{name}"] == baseline["after"][f"test/{name}"]
    assert "random weights" in result.out
    stored = yaml.safe_load((random / "config.yaml").read_text(encoding="utf-8"))
    assert stored["from_scratch"] is True
    result = command("train", *typed, "data.row_length=130")
    assert result.code == 2 and "must be at most 129" in result.err
    result = command("train", *typed, "model.d_model=32")
    assert result.code == 2 and "its model has d_model=16" in result.err


def test_classifier_metrics_count_each_message_once(command, tmp_path: Path) -> None:
    result = command("train", *TINY, "data=toy_spam", *QUICK, "trainer.max_steps=20")
    assert result.code == 0, result.err
    (run,) = runs(tmp_path)
    after = json.loads((run / "summary.json").read_text(encoding="utf-8"))["after"]
    model = load_checkpoint(run / "checkpoints" / "best.ckpt")
    (corpus,) = (tmp_path / "corpora").iterdir()
    opened, right, said_spam, was_spam, hit = Corpus(corpus), 0, 0, 0, 0
    ends = opened.document_ends("test").tolist()
    for begin, end, label in zip([0, *ends], ends, opened.labels("test"), strict=False):
        text = decode(model.tokenizer, opened.tokens("test")[begin:end].tolist())
        probabilities = class_probabilities(
            model.net, model.tokenizer.encode(text), model.tokenizer.eot, model.eot_first
        )
        said = probabilities.index(max(probabilities))
        right, hit = right + (said == label), hit + (said == label == 1)
        said_spam, was_spam = said_spam + (said == 1), was_spam + (label == 1)
    result = command("gptlab.evaluate", f"text={text}")  # the last message
    assert result.out.split()[0] == ["ham", "spam"][said]
    assert after["test/messages"] == len(ends)
    assert after["test/accuracy"] == pytest.approx(right / len(ends))
    assert after["test/f1"] == pytest.approx(2 * hit / (said_spam + was_spam))
    assert after["test/spam_as_spam"] == hit
    assert command("gptlab.evaluate", "suite=[perplexity]").code == 0
    results = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["results"]
    assert results["test/spam_as_spam"] == hit
    assert results["test/accuracy"] == after["test/accuracy"]
    accuracy, count = results["test/accuracy"], results["test/messages"]
    assert results["test/accuracy_standard_error"] ** 2 * count == accuracy * (1 - accuracy)
    assert 0 < results["test/standard_error"] < results["test/loss"]
    assert "test/tokens" not in results
    result = command("gptlab.report.sampling_study", "latest")
    assert result.code == 2 and "is a classifier and cannot generate text" in result.err
    result = command(
        "gptlab.evaluate", f"text={text}" + f" {text.split()[-1]}" * 200, "unknown=skip"
    )
    assert "the model reads only the first 128" in result.err
    result = command("gptlab.evaluate", "text=xyzzy", "unknown=skip")
    assert result.code == 2 and "has no character" in result.err
    header = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("valid/accuracy,valid/f1")
    samples = sorted((run / "samples").iterdir())
    assert "(right)" in samples[-1].read_text(encoding="utf-8") or "(wrong" in samples[
        -1
    ].read_text(encoding="utf-8")


def test_a_model_of_another_kind_is_refused_in_one_line(command, trained: Path, tmp_path) -> None:
    result = command("gptlab.evaluate", f"run={trained}", "text=hello")
    assert result.code == 2 and "is not a classifier" in result.err
    result = command("train", *TINY, "data=toy_spam", *QUICK)
    spam = runs(tmp_path)[-1]
    result = command("generate", f"run={spam}")
    assert result.code == 2 and "cannot generate text" in result.err
    result = command("train", *QUICK, f"init_from={spam}")
    assert result.code == 2 and "is a classifier and cannot generate text" in result.err
    result = command("gptlab.evaluate", f"run={spam}", "suite=[text_quality]")
    assert result.code == 2 and "text_quality: needs a model of data.task=text" in result.err
    result = command("gptlab.evaluate", f"run={spam}")
    assert result.code == 2 and "a message to classify" in result.err
    result = command("train", "data=toy_spam", "eval_after=[perplexity,memorisation]")
    assert result.code == 2 and "memorisation: needs a model" in result.err
    result = command("train", "data=toy_spam", "eval_after=[perplexity,responses]")
    assert result.code == 2 and "responses" in result.err


@pytest.mark.parametrize(
    "typed",
    [
        [*TINY, "data=toy_spam"],
        [*TINY, "data=toy_instructions", "finetune=lora", "finetune.lora_rank=2"],
        ["init_from=TRAINED", "data.row_length=20", "tokenizer.unknown=skip"],
    ],
)
def test_a_stopped_finetuning_run_resumes_to_the_same_bits(
    command, tmp_path: Path, typed, trained
) -> None:
    typed = [word.replace("TRAINED", str(trained)) for word in typed]
    more = [
        *typed,
        *QUICK,
        "model.dropout=0.1",
        "trainer.checkpoint_every=3",
        "trainer.eval_every=3",
    ]
    more += ["trainer.keep_step_checkpoints=true"]
    assert command("train", *more).code == 0
    run = runs(tmp_path)[-1]
    whole, lines = weights(run), (run / "metrics.csv").read_text(encoding="utf-8")
    model = read_checkpoint(run / "checkpoints" / "last.ckpt")["config"]["model"]
    checkpoints = run / "checkpoints"
    (checkpoints / "step_3.ckpt").replace(checkpoints / "last.ckpt")
    for name in ("best.ckpt", "previous.ckpt", "step_6.ckpt"):
        (checkpoints / name).unlink(missing_ok=True)
    (run / "summary.json").unlink()
    result = command("train", f"resume={run}")
    assert result.code == 0, result.err
    for name, weight in weights(run).items():
        assert weight.equal(whole[name]), name
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["config"]["model"] == model

    def losses(text: str) -> list[list[str]]:
        return [line.split(",")[:5] for line in text.splitlines()]

    assert losses((run / "metrics.csv").read_text(encoding="utf-8")) == losses(lines)


INSTRUCT = ["data=toy_instructions", "eval_after=[perplexity,responses]", "max_new_tokens=12"]


def test_responses_are_stored_with_the_expected_ones_and_scored(command, tmp_path: Path) -> None:
    result = command("train", *TINY, *INSTRUCT, *QUICK, "data.max_samples=200")
    assert result.code == 0, result.err
    (run,) = runs(tmp_path)
    written = json.loads((run / "responses.json").read_text(encoding="utf-8"))
    after = json.loads((run / "summary.json").read_text(encoding="utf-8"))["after"]
    assert len(written) == after["responses/n"] > 5
    assert all(set(r) == {"instruction", "input", "output", "response"} for r in written)
    expected, actual = [r["output"] for r in written], [r["response"] for r in written]
    assert after["responses/rouge_l"] == pytest.approx(responses.rouge_l(expected, actual))
    first = written[0]
    result = command(
        *("generate", f"prompt={first['instruction']}", "sampling=greedy", "max_new_tokens=12"),
        *([f"input={first['input']}"] if first["input"] else []),
    )
    assert result.code == 0 and result.out.strip() == first["response"]
    bare = command("generate", f"prompt={first['instruction']}", "template=none")
    assert bare.out.startswith(first["instruction"])
    sample = (run / "samples" / "step_6.txt").read_text(encoding="utf-8")
    assert "\n= " in sample


def test_an_input_needs_a_known_template(command, trained: Path) -> None:
    result = command("generate", "prompt=a", "input=b")
    assert result.code == 2 and "template=alpaca" in result.err
    result = command("generate", "prompt=a", "template=alpca")
    assert result.code == 2 and "did you mean 'alpaca'" in result.err


def test_an_adapter_is_exported_without_the_model(command, tmp_path: Path) -> None:
    gpt2 = ["tokenizer=gpt2", "model.position=learned", "model.feed_forward=gelu_tanh"]
    typed = [*TINY, "data=toy_instructions", *QUICK, *gpt2, "name=lora", "trainer.max_steps=1"]
    typed += ["trainer.sample_every=0", "data.valid_tokens=100", "data.final_tokens=100"]
    assert command("train", *typed, "finetune=lora", "finetune.lora_rank=2").code == 0
    result = command("gptlab.export", "output_dir=adapter", "adapter=true")
    assert result.code == 0, result.err
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    state = weights(runs(tmp_path)[-1], "best")
    assert len(saved) == sum("lora" in name for name in state)
    down = saved["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"]
    assert down.equal(state["blocks.0.attention.qkv.lora_down"])
    settings = json.loads(
        (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    )
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (2, 16.0, "LORA")
    assert command("train", *typed, "name=plain").code == 0
    result = command("gptlab.export", "output_dir=another", "adapter=true")
    assert result.code == 2 and "without LoRA" in result.err


def test_layer_decay_reaches_the_optimizer(command, trained: Path, tmp_path: Path) -> None:
    typed = [*QUICK, f"init_from={trained}", "finetune.layer_decay=0.001", "optim.lr=1e-4"]
    typed += ["optim.warmup_steps=0", "optim.weight_decay=0", "tokenizer.unknown=skip"]
    assert command("train", *typed).code == 0
    before, after = weights(trained, "best"), weights(runs(tmp_path)[-1])
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["final_norm.weight"] > 100 * moved["blocks.0.feed_forward.up.weight"] > 0


def test_a_stopped_baseline_is_compared_after_it_is_resumed(command, trained, tmp_path) -> None:
    typed = ["data=toy_spam", *QUICK, f"init_from={trained}", "tokenizer.unknown=skip"]
    result = command("train", *typed, "from_scratch=true", "finetune=head", "name=none")
    assert result.code == 0 and "random weights are frozen" in result.out
    assert command("train", *typed, "baseline=false", "name=first").code == 0
    first = runs(tmp_path)[-1]
    stop = ["+callbacks.stop._target_=tests.faults.callbacks.StopAtStep", "+callbacks.stop.step=2"]
    typed += ["from_scratch=true", f"baseline_of={first.name}", "name=first_random"]
    result = command("train", *typed, *stop, "+callbacks.stop.signal=2")
    assert result.code == 130, result.err
    assert (
        "random/loss"
        not in json.loads((first / "summary.json").read_text(encoding="utf-8"))["after"]
    )
    result = command("train", "resume=latest", "callbacks=none")
    assert result.code == 0, result.err
    summary = json.loads((first / "summary.json").read_text(encoding="utf-8"))
    own = json.loads((runs(tmp_path)[-1] / "summary.json").read_text(encoding="utf-8"))
    assert summary["after"]["random/loss"] == own["after"]["test/loss"]
    assert f"run={tmp_path.name}" not in result.out and first.name in result.out
    # run=latest is the run, not its baseline.
    result = command("gptlab.evaluate", "text=Once upon")
    assert f"{first.name}/" in result.err, result.err


def test_a_sweep_of_classifiers_is_ranked(command, tmp_path: Path) -> None:
    result = command("train", *TINY, "data=toy_spam", *QUICK, "-m", "seed=1,2")
    assert result.code == 0, result.err
    (table,) = (tmp_path / "runs").glob("*_sweep/sweep.csv")
    assert "accuracy" in table.read_text(
        encoding="utf-8"
    ) and "bits_per_byte" not in table.read_text(encoding="utf-8")


def test_truncated_records_are_reported(command) -> None:
    typed = [*TINY, "data=toy_instructions", *QUICK]
    result = command("train", *typed, "model.context_length=12")
    assert result.code == 0 and "records are too long and are truncated" in result.out
    result = command("train", *typed, "model.context_length=16", "data.template=alpaca")
    assert result.code == 2 and "records is longer than a row of 16 tokens" in result.err


def test_settings_that_contradict_data_or_finetuning_are_refused(command) -> None:
    result = command("train", *TINY, "model.n_classes=3", "profile=smoke")
    assert result.code == 2 and "model.n_classes" in result.err
    result = command("train", *TINY, "finetune.lora_rank=2")
    assert result.code == 2 and "use finetune=lora" in result.err
    result = command("train", *TINY, "finetune=head", "profile=smoke")
    assert result.code == 2 and "try finetune=last_block" in result.err
    result = command("train", *TINY, "finetune.trainable=head", "profile=smoke")
    assert result.code == 2 and "finetune.trainable=head matches nothing" in result.err
    result = command("train", *TINY, "data=toy_spam", "data.subset=0.5")
    assert result.code == 2 and "data.subset=0.5 has no effect" in result.err
