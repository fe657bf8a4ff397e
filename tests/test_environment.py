"""Commands work in environments that images, notebooks and clusters leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.config.schema import TrainerConfig
from tests.conftest import ROOT, TINY

# What an image, a notebook's kernel, an interactive job and a shell leave to every process.
INHERITED = {
    "MPLBACKEND": "inline_of_another_environment",
    **{"LOCAL_RANK": "0", "RANK": "3", "WORLD_SIZE": "8", "NODE_RANK": "1", "GROUP_RANK": "1"},
    **{"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "none"},
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "8", "SLURM_PROCID": "3"},
    **{"SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_NODELIST": "node[1-2]"},
    **{"PL_GLOBAL_SEED": "none", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"},
    **{"CUDA_VISIBLE_DEVICES": "", "HYDRA_FULL_ERROR": "0", "COLUMNS": "none"},
    **{"HOME": "/dev/null/home", "USERPROFILE": "/dev/null/home"},  # not even root can write there
}
PROMPT = "Once upon a time, it's {a}=${b}"
COMMANDS = """
import runpy, sys
for line in ARGUMENTS:
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")
"""


def test_inherited_variables_do_no_harm(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(f"{PROMPT} there was a fox. " * 100, encoding="utf-8")
    size = [size for size in TINY if "interpretability" not in size]  # its plots are drawn, too
    data = ["data=text", f"data.path={own}", "profile=smoke"]
    commands = [
        [str(ROOT / "train.py"), *size, *data, f"prompt={PROMPT}"],
        [str(ROOT / "generate.py"), f"prompt={PROMPT}", "max_new_tokens=3"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS.replace("ARGUMENTS", repr(commands))],
        cwd=tmp_path, env=os.environ | INHERITED | {"PYTHONPATH": str(ROOT)},
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"\n{PROMPT}" in done.stdout.partition("done in")[2]  # generated with the trained model
    (events,) = {path.suffix for path in tmp_path.glob("runs/*/events*")} - {".final"} or {""}
    assert events  # rank 3 would have written none


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"LOCAL_RANK": "1", "GPTLAB_RUN_DIR": "runs/x", "MASTER_PORT": "1"},  # Lightning's child
    ],
)
def test_ranks_of_processes_started_together_are_kept(monkeypatch, variables) -> None:
    from gptlab.training.trainer import RANK_VARIABLES, forget_inherited_ranks

    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_inherited_ranks(TrainerConfig(devices=2))
    assert variables == {name: os.environ.get(name) for name in variables}
