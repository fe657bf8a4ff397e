"""Download small files once and keep them."""

import hashlib
import os
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from gptlab.utils.errors import UserError
from gptlab.utils.system import rename


def download_file(url: str, expected: str | Callable[[bytes], bool], path: Path, hint: str) -> Path:
    """Download a URL to `path`, unless the file exists.

    `expected` is its SHA-256, or a function that accepts the content. Raises UserError, which ends
    with `hint`, if the download fails, or if the content is not as expected.
    """

    def is_expected(content: bytes) -> bool:
        if callable(expected):
            return expected(content)
        return hashlib.sha256(content).hexdigest() == expected

    if path.is_file() and is_expected(path.read_bytes()):
        return path
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            content = response.read()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url}: download failed ({reason}); {hint}") from None
    if not is_expected(content):
        raise UserError(f"{url}: the download is not the official file; {hint}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_bytes(content)
    rename(temporary, path)
    return path
