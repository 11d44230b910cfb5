"""Freed memory is kept where glibc allows it, and never against the user's own settings."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COUNT_FAULTS = """
import ctypes
import resource
import sys
from lemamba.utils.startup import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def step():
    blocks = [(libc.malloc(n << 20), n << 20) for n in range(1, 25)]  # 1 to 24 MB, 300 in all
    for block, size in blocks:
        ctypes.memset(block, 1, size)
    for block, _ in reversed(blocks):  # the newest first: the heap's end becomes free
        libc.free(block)
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(mode: str, **settings: str) -> tuple[bool, int]:
    """Return whether memory is kept and the page faults of three rounds that allocate and free 300 MB."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode],
        capture_output=True, text=True, check=True, cwd=ROOT, env=clean | settings,
    )  # fmt: skip
    kept, faults = run.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_kept():
    assert count_faults("keep")[1] < count_faults("leave")[1] / 10
    kept, faults = count_faults("keep", MALLOC_ARENA_MAX="2")
    assert not kept and faults > 1000  # the user's own setting is left alone
