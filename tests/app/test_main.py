"""The command `python -m gptlab.app`, in a process of its own where that is the point."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from gptlab.app import main
from gptlab.config.schema import AppConfig
from tests.app.serving import ENDLESS, MANY, Client
from tests.conftest import ROOT, posix_only
from tests.test_readme_commands import COMMANDS


@posix_only
def test_readme_command_serves_the_page_until_ctrl_c(folder: Path) -> None:
    (line,) = (command for command in COMMANDS if "gptlab.app" in command)
    settings = [*shlex.split(line)[3:], "port=0", "open_browser=false", f"max_new_tokens={MANY}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gptlab.app", *settings],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        start_new_session=True,
        encoding="utf-8",
    )
    try:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        url = next(filter(None, (re.match(r"http://127.0.0.1:(\d+)/", line) for line in lines)))
        page = urllib.request.urlopen(url[0]).read().decode()
        assert "<title>gptlab</title>" in page
        with Client(int(url[1])).streaming(**ENDLESS) as response:
            response.readline()
            start = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(20) == 0
        assert time.monotonic() - start < 5
        output = process.stderr.read()
        assert output.endswith("stopped\n") and "Traceback" not in output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_other_machines_need_a_token(command) -> None:
    result = command("gptlab.app.__main__", "host=0.0.0.0")
    assert result.code == 2 and "token" in result.err and result.err.count("\n") == 1
    result = command("gptlab.app.__main__", "token=short")
    assert result.code == 2 and "16 to 200" in result.err


def test_port_in_use_and_missing_package_give_a_one_line_error(
    command, server, folder, monkeypatch
):
    settings = ["open_browser=false", f"run_root={folder / 'runs'}", f"port={server.port}"]
    result = command("gptlab.app.__main__", *settings)
    assert result.code == 2 and "in use" in result.err and result.err.count("\n") == 1
    find_spec = importlib.util.find_spec
    without = lambda name, *more: None if name == "uvicorn" else find_spec(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    result = command("gptlab.app.__main__", *settings)
    assert result.code == 2 and "pip install fastapi uvicorn" in result.err


def test_address_shown_can_be_opened_elsewhere(monkeypatch) -> None:
    monkeypatch.setattr(main.socket, "gethostname", lambda: "studio")
    assert main.page_url(AppConfig(host="::1"), 7) == "http://[::1]:7/"
    assert main.page_url(AppConfig(host="0.0.0.0", token="x" * 16), 7) == (
        f"http://studio:7/?token={'x' * 16}"
    )


def test_the_server_starts_without_lightning_and_matplotlib() -> None:
    code = (
        "import sys, gptlab.app.main, gptlab.app.routes; "
        "print(*{'lightning', 'matplotlib', 'datasets', 'transformers'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert result.stdout.split() == []
