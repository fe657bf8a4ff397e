"""What `python -m gptlab.app` does: checks, opens a port, and serves until Ctrl-C."""

import importlib.util
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.config.schema import AppConfig
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    import uvicorn

    from gptlab.app.job_queue import JobQueue


NEEDED = ("fastapi", "uvicorn")


def serve(config: AppConfig) -> None:
    """Serves the page; raises UserError where something of it is missing or taken."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"the page needs {name}: `pip install -e '.[app]'` brings it")
    from gptlab.app.job_queue import JobQueue
    from gptlab.app.model_registry import ModelRegistry
    from gptlab.app.routes import make_app

    accelerator = resolve_accelerator(config.accelerator, "accelerator")
    first = run_dir.find_checkpoint(config.run, config.run_root)
    root = Path(config.run_root).expanduser()
    shelf = ModelRegistry(root, first, config.max_models, accelerator, config.weight_dtype)
    model = shelf.open(*shelf.first)  # a damaged one is told here, before there is a page
    with listen(config) as listening:
        port = listening.getsockname()[1]
        queue = JobQueue(config.max_queue)
        server = make_server(make_app(config, port, shelf, queue), queue)
        url = address(config, port)
        print_status(f"{model.path}, step {model.step:,}\n{url}   (Ctrl-C ends)")
        if config.open_browser and has_screen():
            threading.Timer(0.5, webbrowser.open, (url,)).start()
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # which uvicorn raises again when all is closed
            print_status("stopped")


def listen(config: AppConfig) -> socket.socket:
    """A socket on the address; raises UserError where there is none to be had."""
    listening = None
    try:
        name = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(name[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(name[4])
        listening.listen(128)
        return listening
    except (OSError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or "is no address"
        raise UserError(
            f"host={config.host} port={config.port}: {reason}; port=0 takes any that is free"
        ) from None


def make_server(app: Any, queue: "JobQueue") -> "uvicorn.Server":
    """A server that stops what is being computed, as soon as it is told to end."""
    import uvicorn

    from gptlab.app.idle_timeout import IdleTimeoutProtocol

    class Server(uvicorn.Server):
        def handle_exit(self, number: int, frame: Any) -> None:
            queue.close()
            super().handle_exit(number, frame)

    settings = {
        "log_level": "error",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }
    limits = {"limit_concurrency": 200, "timeout_graceful_shutdown": 2, "timeout_keep_alive": 5}
    return Server(uvicorn.Config(app, **settings, **limits, ws="none", http=IdleTimeoutProtocol))


def address(config: AppConfig, port: int) -> str:
    """What to open in a browser, the token with it."""
    host = config.host
    try:
        at = ipaddress.ip_address(host)
        host = socket.gethostname() if at.is_unspecified else f"[{at}]" if at.version == 6 else host
    except ValueError:  # a name
        pass
    return f"http://{host}:{port}/" + (f"?token={config.token}" if config.token else "")


def has_screen() -> bool:
    """Whether a browser would be a window, and not take over the terminal."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(display)
