"""gptlab installed from a wheel, and its commands `gptlab NAME` and `python -m gptlab NAME`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab import __main__ as launcher
from gptlab.config.schema import SCHEMAS
from gptlab.utils.program import LAUNCHER_ENV, command_line
from tests.conftest import ROOT, TINY

# Runs before any other module in the test's processes: the clone must not be found.
SITE_CUSTOMIZE = f"""
import sys
sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]
sys.meta_path[:] = [each for each in sys.meta_path if "__editable__" not in each.__module__]
"""
# Every command in turn, in one process: importing torch takes seconds.
EVERY_COMMAND = f"""
import sys, threading, urllib.request
from gptlab.__main__ import main

def run(*arguments):
    print("$", *arguments, flush=True)
    sys.argv = ["gptlab", *arguments]
    main()

small = ["data.max_samples=60", "tokenizer=char", "data.final_tokens=200"]
run("prepare", "data=toy_stories", *small[:2])
run("train", "profile=smoke", "trainer.max_steps=1", "model.position=learned", *small, *{TINY})
run("generate", "prompt=Once", "max_new_tokens=2")
run("evaluate", "suite=[perplexity]", "max_tokens=200")
run("report", "runs", "--no-inspection")
run("export", "output_dir=exported")

import gptlab

called = gptlab.train(*small, *{TINY}, profile="smoke", run_root="called")
print("python:", called.finished, len(gptlab.load("exported").generate("Once", n=2)))

from gptlab.app import main as app
from gptlab.config.schema import AppConfig

config = AppConfig(port=0)
listener = app.open_socket(config)
port = listener.getsockname()[1]
server = app.make_server(config, port, app.open_registry(config))
thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
thread.start()
page = urllib.request.urlopen(f"http://127.0.0.1:{{port}}/").read().decode()
style = urllib.request.urlopen(f"http://127.0.0.1:{{port}}/style.css").read()
server.handle_exit(2, None)
thread.join()
print("app:", "<title>" in page, len(style) > 100)
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
print("from the clone:", [file for file in files if file.startswith({str(ROOT)!r})])
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where pip has installed gptlab's wheel, without its dependencies."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-cache-dir"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(ROOT)],
        check=True,
    )
    (folder / "sitecustomize.py").write_text(SITE_CUSTOMIZE, encoding="utf-8")
    return folder


def run_installed(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_every_command_works_from_a_wheel_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    done = run_installed(site, tmp_path, "-c", EVERY_COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("app: True True\nfrom the clone: []\n"), done.stdout
    assert "python: True 2" in done.stdout
    assert "next\n  gptlab generate" in done.stdout
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    assert '"command": "gptlab train profile=smoke' in summary.read_text(encoding="utf-8")
    assert '"commit": null' in summary.read_text(encoding="utf-8")
    cards = run_installed(site, tmp_path, "-m", "gptlab.report.cards")
    assert cards.returncode == 2 and "in a clone of gptlab" in cards.stderr
    scripts = [p for p in site.glob("*/gptlab*") if p.parent.name in ("bin", "Scripts")]
    assert scripts


@pytest.fixture
def gptlab(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """Run `gptlab …` in this process; return the exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LAUNCHER_ENV, "")  # restored afterwards, with the next line
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/gptlab", *arguments])
        try:
            launcher.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(gptlab, arguments: list[str]) -> None:
    code, out, _ = gptlab(*arguments)
    assert code == 0 and all(f"gptlab {name} " in out for name in (*SCHEMAS, "report", "bench"))


def test_an_unknown_command_gets_a_near_name(gptlab) -> None:
    code, _, err = gptlab("trian", "model=toy")
    assert code == 2 and err.count("\n") == 1 and "did you mean 'train'?" in err
    assert gptlab("--version")[1].startswith("gptlab ")


@pytest.mark.parametrize("name", launcher.COMMANDS)
def test_help_shows_how_the_command_was_started(gptlab, name: str) -> None:
    code, out, _ = gptlab(name, "--help")
    assert code == 0 and f"gptlab {name} " in out
    assert "python" not in out.splitlines()[0]


def test_errors_name_a_command_that_works_here(gptlab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`gptlab train`" in gptlab("generate", "prompt=Once")[2]
    monkeypatch.delenv(LAUNCHER_ENV)
    for typed, expected in {
        "train.py": "python train.py",
        "../clone/generate.py": "python ../clone/train.py",
        "/site-packages/gptlab/evaluate.py": "python -m gptlab train",
    }.items():
        monkeypatch.setattr(sys, "argv", [typed])
        assert command_line("train", "name=a") == f"{expected} name=a"


def test_child_processes_start_the_same_command(gptlab) -> None:
    from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd

    gptlab("prepare", "--help")
    assert _basic_subprocess_cmd()[1:] == ["-m", "gptlab.prepare", "--help"]
    gptlab("train", "--help")
    assert _basic_subprocess_cmd()[1:] == ["-m", "gptlab.training.__main__", "--help"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gptlab tr", list(launcher.COMMANDS)),
        ("gptlab train model=tin", ["model=tiny_char"]),
        ("gptlab generate sampling=gre", ["sampling=greedy"]),
        ("gptlab report ru", []),
    ],
)
def test_shells_complete_commands_and_keys(
    gptlab, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    code, out, _ = gptlab("-sc", "query=bash")
    assert code == 0 and out.split() == words


WRONG_INPUTS = [
    ["train", "data=text", "data.path=missing.txt"],
    ["train", "data=text", "data.path=empty.txt"],
    ["train", "data=text", "data.path=binary.txt"],
    ["train", "data=text", "data.path=folder"],
    ["train", "data=text"],
    ["train", "data.valid_path=missing.txt", "data.path=text.txt"],
    ["train", "init_from=missing"],
    ["prepare", "data=toy_spam", "data.path=text.txt.gz"],
    ["evaluate", "suite=[perplexity]", "run=missing"],
    ["generate", "run=missing"],
    ["export", "output_dir=exported"],
    ["app", "run_root=missing"],
]


def test_wrong_files_and_runs_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "text.txt").write_text("Once upon a time.\n" * 9, encoding="utf-8")
    (tmp_path / "text.txt.gz").write_text("no archive", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    code = f"""
import sys
from gptlab.__main__ import main
for arguments in {WRONG_INPUTS}:
    sys.argv = ["gptlab", *arguments]
    try:
        main()
    except SystemExit as end:
        print(end.code, "torch" in sys.modules)
"""
    done = run_installed(ROOT, tmp_path, "-c", code)
    assert done.stdout.splitlines() == ["2 False"] * len(WRONG_INPUTS), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(WRONG_INPUTS) and all(line.startswith("error: ") for line in lines)
