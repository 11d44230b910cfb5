"""How freed memory is kept, said once before torch starts.

A training step allocates and frees about a gigabyte in blocks of megabytes. glibc hands such blocks back to the
kernel at once, and the next step pays for every page again: about a tenth of its time (docs/engineering_log.md). Here
glibc is told to keep them. The peak of a process does not change, only what it holds between two peaks.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's malloc.h
_KEPT = 1 << 30  # bytes at the heap's end that are not given back
_PAD = 64 << 20  # bytes the heap grows by at once
_LARGEST = 32 << 20  # bytes from which a block is mapped by itself: the largest that glibc accepts


def _user_decides() -> bool:
    """Tell whether the environment already says how memory is handled."""
    return any(name.startswith("MALLOC_") for name in os.environ) or bool(
        {"GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys()
    )


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; return whether it now does.

    Does nothing without glibc, and where the user has set MALLOC_*, GLIBC_TUNABLES or LD_PRELOAD (another allocator).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or _user_decides():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _PAD), (_MMAP_THRESHOLD, _LARGEST))
    return all(mallopt(name, value) == 1 for name, value in settings)
