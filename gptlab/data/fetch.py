"""Small files from the web, fetched once and kept."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path

from gptlab.errors import UserError


def fetch(url: str, sha256: str | None, path: Path, otherwise: str) -> Path:
    """The file at `path`, fetched from the URL if it is not there.

    Raises UserError, which ends with the way `otherwise`, where that cannot be, or where the
    content has another hash.
    """
    if path.is_file() and sha256 in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        return path
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be fetched ({reason}); {otherwise}") from None
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise UserError(f"what {url} sends is not the official file (its hash differs)")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
