"""Run the web server: check the configuration, open a port, serve until Ctrl-C."""

import contextlib
import importlib.util
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gptlab.config.schema import AppConfig
from gptlab.utils import run_dir
from gptlab.utils.console import print_status
from gptlab.utils.device import resolve_accelerator
from gptlab.utils.errors import UserError

if TYPE_CHECKING:
    import uvicorn

    from gptlab.app.model_registry import ModelRegistry

REQUIRED_PACKAGES = ("fastapi", "uvicorn")


def serve(config: AppConfig) -> None:
    """Serve the page; raises UserError for a missing package, a bad model or a port in use."""
    for name in REQUIRED_PACKAGES:
        if importlib.util.find_spec(name) is None:
            packages = " ".join(REQUIRED_PACKAGES)
            raise UserError(f"the app needs the package {name}: run `pip install {packages}`")
    registry = open_registry(config)
    model = registry.load(*registry.default)  # a damaged checkpoint fails here, before serving
    with open_socket(config) as listener:
        port = listener.getsockname()[1]
        server = make_server(config, port, registry)
        url = page_url(config, port)
        print_status(f"{model.path}, step {model.step:,}\n{url}   (Ctrl-C to stop)")
        if config.open_browser and has_display():
            threading.Timer(0.5, webbrowser.open, (url,)).start()
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # raised again by uvicorn after it has shut down
            print_status("stopped")


def open_registry(config: AppConfig) -> "ModelRegistry":
    from gptlab.app.model_registry import ModelRegistry

    accelerator = resolve_accelerator(config.accelerator, "accelerator", operations=0)
    checkpoint = run_dir.find_checkpoint(config.run, config.run_root)
    root = Path(config.run_root).expanduser()
    return ModelRegistry(root, checkpoint, config.max_models, accelerator, config.weight_dtype)


def open_socket(config: AppConfig) -> socket.socket:
    """Listen on the configured address; raises UserError if that is impossible."""
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        return listener
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or "not a valid address"
        raise UserError(
            f"host={config.host} port={config.port}: {reason}; port=0 takes any free port"
        ) from None


def make_server(config: AppConfig, port: int, registry: "ModelRegistry") -> "uvicorn.Server":
    """Build a server that stops the running computation when it receives a signal to exit."""
    import uvicorn

    from gptlab.app.job_queue import JobQueue
    from gptlab.app.routes import create_app
    from gptlab.app.security import IdleTimeoutProtocol

    queue = JobQueue(config.max_queue)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            queue.close()
            super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            create_app(config, port, registry, queue),
            http=IdleTimeoutProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=5,
        )
    )


def page_url(config: AppConfig, port: int) -> str:
    """Return the address to open in a browser, including the token."""
    host = config.host
    with contextlib.suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = socket.gethostname()
        elif address.version == 6:
            host = f"[{address}]"
    return f"http://{host}:{port}/" + (f"?token={config.token}" if config.token else "")


def has_display() -> bool:
    """Return whether a browser would open a window, rather than take over the terminal."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(display)
