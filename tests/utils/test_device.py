"""Memory of this process."""

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COUNT_PAGE_FAULTS = """
import resource, torch
from gptlab.utils.system import keep_freed_memory
def faults_per_block():
    for number in range(30):
        if number == 20:  # small objects have found their places
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = torch.ones(1 << 24)
        del block
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10
returned = faults_per_block()
keep_freed_memory()
print(returned, faults_per_block())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_kept_memory_is_reused_without_page_faults() -> None:
    output = subprocess.check_output([sys.executable, "-c", COUNT_PAGE_FAULTS])
    returned, kept = map(int, output.split())
    pages = (1 << 26) // mmap.PAGESIZE
    assert kept < pages / 20
    if not (HUGE_PAGES.exists() and HUGE_PAGES.read_text(encoding="utf-8").startswith("[always]")):
        assert returned > pages / 2
