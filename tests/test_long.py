"""Long and concurrent runs: memory stays flat, nothing leaks, the same command repeats its bits."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from gptlab.config import sweeps
from gptlab.config.schema import TokenizerConfig
from gptlab.data.build import open_corpus
from gptlab.model import checkpoint
from gptlab.utils import run_dir
from gptlab.utils.device import resident_memory
from tests.conftest import TINY, toy_data
from tests.faults.callbacks import MEMORY_SAMPLES
from tests.faults.compare import only_run, read_metrics


@pytest.mark.slow
def test_memory_is_flat_over_20_000_batches(command) -> None:
    MEMORY_SAMPLES.clear()
    result = command(
        *("train", *TINY, "model.context_length=32", "data.batch_size=4", "data.batching=random"),
        *("trainer.max_steps=20000", "data.valid_tokens=2000", "data.final_tokens=2000"),
        *("trainer.eval_every=500", "trainer.sample_every=1000", "max_new_tokens=10"),
        "+callbacks.watch._target_=tests.faults.callbacks.MemoryWatcher",
    )
    assert result.code == 0, result.err
    assert len(MEMORY_SAMPLES) == 40
    settled, highest = MEMORY_SAMPLES[3], max(MEMORY_SAMPLES[3:])  # from step 2,000 on
    print(f"{settled / 1e6:.1f} MB after 2,000 steps, then at most {highest / 1e6:.1f} MB")
    assert highest < 1.05 * settled


@pytest.mark.slow
def test_a_sweep_of_50_jobs_leaks_no_files_threads_or_memory(command, monkeypatch) -> None:
    held: list[tuple[int, int, int]] = []
    clean = sweeps.reset_job_state

    def count() -> None:
        clean()
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        held.append((files, threads, resident_memory()))

    monkeypatch.setattr(sweeps, "reset_job_state", count)
    smoke = [*TINY, "profile=smoke", "data.max_samples=100", "data.final_tokens=1000"]
    result = command("train", "-m", *smoke, "seed=range(50)", "data.num_workers=1")
    assert result.code == 0, result.err
    assert len(held) == 50
    settled = held[5]
    print(f"files, threads, bytes: {settled} before job 5, {held[-1]} before job 49")
    assert held[-1][:2] == settled[:2]
    assert held[-1][2] < 1.25 * settled[2]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["false", "model", "step"])
def test_two_threads_give_the_same_bits_twice(command, tmp_path: Path, compiled: str) -> None:
    threads, losses, weights = torch.get_num_threads(), [], []
    settings = [
        *(
            "model.dropout=0.1",
            "trainer.max_steps=30",
            "trainer.num_threads=2",
            "trainer.log_every=1",
        ),
        *(f"trainer.compile={compiled}", "data.final_tokens=2000", "data.valid_tokens=2000"),
        *("data.max_samples=2000", "max_new_tokens=5", "logger=none"),
    ]
    try:
        for root in ("first", "second"):
            torch.compiler.reset()
            result = command("train", *settings, f"run_root={root}")
            assert result.code == 0, result.err
            run = only_run(tmp_path / root)
            losses.append(read_metrics(run))
            weights.append(
                checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
            )
    finally:
        torch.set_num_threads(threads)
    assert losses[0] == losses[1]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def build_corpus(root: Path, barrier, results) -> None:
    barrier.wait()
    corpus = open_corpus(toy_data(), TokenizerConfig(name="words"), 1, str(root))
    results.put((corpus.folder.name, corpus.splits["train"].checksums))


def run_at_once(task, root: Path, count: int) -> list:
    """Run `task(root, barrier, results)` in `count` processes together; return their results."""
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(count), fork.Queue()
    processes = [fork.Process(target=task, args=(root, barrier, results)) for _ in range(count)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return outcomes


def test_processes_that_build_the_same_corpus_do_not_collide(tmp_path: Path) -> None:
    results = run_at_once(build_corpus, tmp_path / "corpora", 4)
    assert all(result == results[0] for result in results)
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [results[0][0]]


def publish_run(root: Path, barrier, results) -> None:
    barrier.wait()
    folder = run_dir.reserve_run_dir(root, "2026-01-02_030405_a run")
    (run_dir.staging_dir(folder) / "config.yaml").touch()
    run_dir.publish_run_dir(folder)
    results.put(folder.name)


def test_runs_started_in_the_same_second_get_separate_folders(tmp_path: Path) -> None:
    names = run_at_once(publish_run, tmp_path / "runs", 8)
    first = "2026-01-02_030405_a-run"
    assert sorted(names) == sorted([first, *(f"{first}-{number}" for number in range(2, 9))])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(names)
