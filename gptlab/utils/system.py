"""What differs between operating systems: no other file uses what only some of them have."""

import contextlib
import os
import platform
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import psutil

WINDOWS = os.name == "nt"
END_OF_INPUT = "Ctrl-Z and Enter" if WINDOWS else "Ctrl-D"
# Ctrl-C; `kill`, clusters and containers; on Windows Ctrl-Break, or closing the window.
SHUTDOWN_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":  # mypy knows this test
    SHUTDOWN_SIGNALS.append(signal.SIGBREAK)
RENAME_DELAYS = [0.01 * 2**n for n in range(10)]  # seconds: ten in all


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder; an existing file `target` is replaced.

    Windows renames nothing that a program has open: wait up to ten seconds for virus scanners and
    readers. Raises OSError.
    """
    for delay in RENAME_DELAYS if WINDOWS else []:
        try:
            return os.replace(source, target)
        except PermissionError:
            if target.is_dir():
                raise
            time.sleep(delay)
    os.replace(source, target)


def flush_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure; Windows has no call for this."""
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shell_quote(text: str) -> str:
    """Quote an argument for sh, cmd and PowerShell alike, or else for this system's shell."""
    if re.fullmatch(r"[\w.,:=+/\\-]+" if WINDOWS else r"[\w.,:=+/-]+", text):
        return text
    if not set(text) & set('"\\$`!%'):  # special within double quotes, in one shell or another
        return f'"{text}"'
    if not WINDOWS:
        return shlex.quote(text)
    doubled = re.sub(r'(\\+)("|\Z)', r"\1\1\2", text)  # only before a quote is it an escape
    return '"' + doubled.replace('"', '\\"') + '"'


def enable_line_editing() -> None:
    """Give input() a history and arrow keys; the console of Windows has them already."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401


def peak_memory() -> int:
    """Return the largest number of bytes of memory that this process has used."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def container_memory_limit() -> int | None:
    """Return the bytes of memory that a Linux container may use; None without a limit."""
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    return None


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory; do nothing with another C library.

    By default glibc returns large freed blocks to the system, and the next step gets them page by
    page, filled with zeros: a tenth of a step or more (docs/speed.md).
    """
    if platform.libc_ver()[0] == "glibc":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def cpu_name() -> str:
    """Return the processor's model name, such as AMD EPYC 7B13."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
