"""Inject faults into runs and count what is lost: `python -m tests.faults 100`.

Each round trains a small model in a process of its own, injects a fault at a random moment, resumes
with `resume=latest` (perhaps with a second fault), and compares the result bit for bit with a run
without faults. Exits with 1 if anything was lost.
"""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from gptlab.utils import run_dir
from gptlab.utils.errors import UserError
from tests.faults import injection
from tests.faults.compare import assert_identical_runs, only_run

SETTINGS = [
    *("model.n_layer=1", "model.d_model=16", "model.n_head=2", "model.dropout=0.1"),
    *("trainer.max_steps=24", "trainer.eval_every=5", "trainer.log_every=3"),
    *("trainer.accumulate_grad_batches=2", "data.batch_size=4", "data.valid_tokens=400"),
    *("trainer.checkpoint_every=4", "trainer.sample_every=6", "max_new_tokens=5"),
    *("data.max_samples=200", "data.final_tokens=400"),
]
KINDS = {
    "run": [],
    "sgd": ["optim=sgd", "optim.schedule=wsd", "data.batching=random"],
    "workers": ["data.num_workers=1"],
    "sweep": ["-m", "model.n_head=2,4", "logger=none"],
}
EXPECTED_CODES = {0, 2, -9}  # finished, one-line error, killed


def start(arguments: list[str], folder: Path, fault: injection.Fault | None) -> int:
    """Run train.py with these arguments in a child process; return its exit code."""
    if child := os.fork():
        if fault and fault.after is not None:
            time.sleep(fault.after)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, 9)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, 9)  # its loader workers
        return os.waitstatus_to_exitcode(status)
    os.setpgid(0, 0)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if fault:
        fault.arm()
    sys.argv = ["train.py", *arguments]
    code = 1
    try:
        import train

        train.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run_round(
    kind: str, name: str, random_source: random.Random, reference: Path, seconds: float
) -> Counter:
    """Train with a fault, resume until the run is finished, compare with the reference."""
    counts: Counter = Counter()
    folder = Path(tempfile.mkdtemp(prefix="fault_"))
    try:
        arguments = [*SETTINGS, *KINDS[kind]]
        for attempt in range(12):
            fault = injection.make_fault(name, random_source, seconds) if attempt < 2 else None
            started = bool(visible_runs(folder))
            if started:
                time.sleep(1.1)  # TensorBoard sorts files of different processes by the second
            code = start(["resume=latest"] if started else arguments, folder, fault)
            counts["faults"] += code != 0
            if code not in EXPECTED_CODES:
                raise AssertionError(f"{name} ended with {code}")
            if code == 0 and all(run_dir.is_finished(run) for run in visible_runs(folder)):
                break
            if fault and fault.name == "torn":
                unfinished = [run for run in visible_runs(folder) if not run_dir.is_finished(run)]
                injection.tear_checkpoints(unfinished, random_source)
        assert_identical_runs(only_run(folder / "runs"), only_run(reference / "runs"))
        counts["identical"] += 1
    except (AssertionError, UserError) as error:
        counts["lost"] += 1
        log = (folder / "log.txt").read_text(encoding="utf-8")[-3000:]
        print(f"LOST after {name} ({kind}): {error}\n{log}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def visible_runs(folder: Path) -> list[Path]:
    """The runs and sweeps whose folders have been published."""
    root = folder / "runs"
    return [path for path in root.iterdir() if path.name[0] != "."] if root.is_dir() else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted({*injection.NAMES}), help="one kind of fault")
    arguments = parser.parse_args()
    import gptlab.training.train  # noqa: F401  once, before all children

    random_source = random.Random(arguments.seed)
    total: Counter = Counter()
    with contextlib.ExitStack() as stack:
        references = {}
        for kind, settings in KINDS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reference_")))
            began = time.perf_counter()
            code = start([*SETTINGS, *settings], folder, None)
            assert code == 0, (folder / "log.txt").read_text(encoding="utf-8")
            references[kind] = folder, time.perf_counter() - began
        for number in range(arguments.count):
            kind = list(KINDS)[number % len(KINDS)]
            name = arguments.only or injection.NAMES[number % len(injection.NAMES)]
            total += run_round(kind, name, random_source, *references[kind])
            total["rounds"] += 1
            print(f"{total['rounds']:4} {name:12} {kind:8} {dict(total)}", flush=True)
    print(
        f"{total['faults']} faults in {total['rounds']} runs, {total['lost']} lost, "
        f"{total['identical']} ended bit-identical"
    )
    raise SystemExit(1 if total["lost"] else 0)


if __name__ == "__main__":
    main()
