"""Small files from the web, fetched once and kept."""

import hashlib
import os
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from gptlab.utils.errors import UserError


def download_file(
    url: str, expected: str | Callable[[bytes], bool], path: Path, otherwise: str
) -> Path:
    """The file at `path`, fetched from the URL if it is not there.

    `expected`: its SHA-256, or what tells whether it is right. Raises UserError, which ends with
    the way `otherwise`, where it cannot be fetched, or where something else comes.
    """

    def right(content: bytes) -> bool:
        if callable(expected):
            return expected(content)
        return hashlib.sha256(content).hexdigest() == expected

    if path.is_file() and right(path.read_bytes()):
        return path
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be fetched ({reason}); {otherwise}") from None
    if not right(content):
        raise UserError(f"what {url} sends is not the official file (its hash differs)")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
