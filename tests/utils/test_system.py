"""What differs between operating systems."""

import ast
import os
import shlex
from pathlib import Path

import pytest

from gptlab.utils import system
from tests.conftest import ROOT

pytestmark = pytest.mark.fast

# Modules and names that Windows lacks, or that only Linux has.
MODULES = "fcntl resource termios tty pty pwd grp readline select curses syslog".split()
OS_NAMES = """
    fork forkpty getuid geteuid getgid getgroups getpgid killpg setsid nice sched_getaffinity
    sysconf mkfifo chown uname getloadavg O_DIRECTORY O_NONBLOCK O_CLOEXEC wait waitpid WNOHANG
    posix_spawn getpgrp statvfs
""".split()
DIFFERENT = ["os.replace", "os.rename", "os.fsync", "os.kill", "ctypes"]  # work differently there
SIGNAL_NAMES = """
    SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGPIPE SIGCHLD SIGTSTP alarm setitimer pause
""".split()
FORBIDDEN = {
    *(f"os.{name}" for name in OS_NAMES),
    *(f"signal.{name}" for name in SIGNAL_NAMES),
    *DIFFERENT,
}
SOURCES = [*ROOT.glob("gptlab/**/*.py"), ROOT / "train.py", ROOT / "generate.py"]
PATHS = ("/proc/", "/sys/", "/dev/", "/tmp")


def system_specific(source: str) -> list[str]:
    """List the modules, names and paths in a file that not every system has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [each.name for each in names]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module, *(f"{module}.{each.name}" for each in names)]
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                found.append(f"{module}.{name}")
            case ast.Constant(value=str(text)) if text.startswith(PATHS):
                found.append("a path")
            case ast.Call(func=ast.Attribute(attr="rename")):
                found.append("Path.rename")
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                found.append("Path.replace")  # str.replace has two arguments
    own = {"a path", "Path.rename", "Path.replace"}
    return [name for name in found if name in FORBIDDEN | own or name.split(".")[0] in MODULES]


def test_one_file_holds_all_that_depends_on_the_system() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in SOURCES
        if (names := system_specific(path.read_text(encoding="utf-8")))
    }
    example = "import fcntl, os; os.fork(); Path('/proc/x').rename(y); z.replace(y)"
    assert len(system_specific(example)) == 5
    assert found.pop("gptlab/utils/system.py")
    assert found == {"gptlab/training/checkpoint_io.py": ["os.fsync"]}  # of a file: every system


def test_a_rename_waits_for_a_program_that_has_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("new", encoding="utf-8")
    (tmp_path / "b").write_text("old", encoding="utf-8")
    attempts, replace = [], os.replace

    def windows_replace(source: Path, target: Path) -> None:
        attempts.append(source)
        if len(attempts) < 4:
            raise PermissionError(13, "The process cannot access the file")
        replace(source, target)

    monkeypatch.setattr(os, "replace", windows_replace)
    monkeypatch.setattr(system.time, "sleep", lambda _: None)
    monkeypatch.setattr(system, "WINDOWS", False)
    with pytest.raises(PermissionError):  # elsewhere it has another reason
        system.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(system, "WINDOWS", True)
    system.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "new" and len(attempts) == 4
    attempts.clear()
    with pytest.raises(PermissionError):
        system.rename(tmp_path / "b", tmp_path)  # a folder is never replaced
    assert len(attempts) == 1


@pytest.mark.parametrize("text", ["Once", "Once upon a time", "it's", "a,b=c", "", "a;b|c&d (e)"])
def test_simple_arguments_are_quoted_alike_for_every_shell(text: str, monkeypatch) -> None:
    quoted = system.shell_quote(text)
    assert shlex.split(quoted) == [text] and not quoted.startswith("'")
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.shell_quote(text) == quoted


@pytest.mark.parametrize(
    ("text", "sh", "windows"),
    [
        ('say "hi"', "'say \"hi\"'", r'"say \"hi\""'),
        (r"C:\runs", r"'C:\runs'", r"C:\runs"),
        ("C:\\my runs\\", "'C:\\my runs\\'", r'"C:\my runs\\"'),
    ],
)
def test_other_arguments_are_quoted_for_this_shell(
    text: str, sh: str, windows: str, monkeypatch
) -> None:
    monkeypatch.setattr(system, "WINDOWS", False)
    assert system.shell_quote(text) == sh
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.shell_quote(text) == windows
