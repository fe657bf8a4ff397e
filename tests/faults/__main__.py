"""Accidents, one after another, and what was lost: `python -m tests.faults 100`.

Each trains a small model in a process of its own, has an accident there at a random moment, goes
on with `resume=latest` (which may have another), and compares what came of it, bit for bit, with a
run that had none. Exits with 1 if anything was lost.
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
from tests.faults import accidents
from tests.faults.compare import assert_same, only

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
ENDINGS = {0, 2, -9}  # finished, one plain line, killed


def start(arguments: list[str], folder: Path, accident: accidents.Accident | None) -> int:
    """Runs `train.py` with these arguments in a child of this process; its exit code."""
    if child := os.fork():
        if accident and accident.after is not None:
            time.sleep(accident.after)
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
    if accident:
        accident.arm()
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


def one(kind: str, name: str, draw: random.Random, whole: Path, seconds: float) -> Counter:
    """One accident, and all that it takes to get over it."""
    counts: Counter = Counter()
    folder = Path(tempfile.mkdtemp(prefix="fault_"))
    try:
        first = [*SETTINGS, *KINDS[kind]]
        for attempt in range(12):
            accident = accidents.make(name, draw, seconds) if attempt < 2 else None
            if begun := bool(found(folder)):
                time.sleep(1.1)  # TensorBoard orders files by the second in their names
            code = start(["resume=latest"] if begun else first, folder, accident)
            counts["accidents"] += code != 0
            if code not in ENDINGS:
                raise AssertionError(f"{name} ended with {code}")
            if code == 0 and all(run_dir.is_finished(run) for run in found(folder)):
                break
            if accident and accident.name == "torn":
                accidents.tear([run for run in found(folder) if not run_dir.is_finished(run)], draw)
        assert_same(only(folder / "runs"), only(whole / "runs"))
        counts["identical"] += 1
    except (AssertionError, UserError) as error:
        counts["lost"] += 1
        log = (folder / "log.txt").read_text()[-3000:]
        print(f"LOST after {name} ({kind}): {error}\n{log}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def found(folder: Path) -> list[Path]:
    """The runs and sweeps that have appeared."""
    root = folder / "runs"
    return [path for path in root.iterdir() if path.name[0] != "."] if root.is_dir() else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted({*accidents.NAMES}), help="one kind of accident")
    wanted = parser.parse_args()
    import gptlab.training.train  # noqa: F401  once, before all children

    draw = random.Random(wanted.seed)
    total: Counter = Counter()
    with contextlib.ExitStack() as stack:
        wholes = {}
        for kind, extra in KINDS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whole_")))
            began = time.perf_counter()
            assert start([*SETTINGS, *extra], folder, None) == 0, (folder / "log.txt").read_text()
            wholes[kind] = folder, time.perf_counter() - began
        for number in range(wanted.count):
            kind = list(KINDS)[number % len(KINDS)]
            name = wanted.only or accidents.NAMES[number % len(accidents.NAMES)]
            total += one(kind, name, draw, *wholes[kind])
            total["faults"] += 1
            print(f"{total['faults']:4} {name:12} {kind:8} {dict(total)}", flush=True)
    print(
        f"{total['accidents']} accidents in {total['faults']} runs, {total['lost']} lost, "
        f"{total['identical']} ended bit-identical"
    )
    raise SystemExit(1 if total["lost"] else 0)


if __name__ == "__main__":
    main()
