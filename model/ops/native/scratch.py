"""Memory of large maps between two kernels of inference: kept, and in large pages where the system has them.

The maps of a tile are up to 100 MB. glibc maps blocks above 32 MB anew at each allocation, and clearing their pages
took a tenth of a network's time; the scan, which walks down columns, also profits from pages of 2 MB
(docs/engineering_log.md). A block is free when no tensor refers to it any more: results may be kept like any others.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading

import torch
from torch import Tensor

SMALLEST = 4 << 20  # bytes; below, the C library keeps freed memory itself
KEPT = 1 << 30  # bytes of free blocks kept at most
_PAGE = 2 << 20
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)

_lock = threading.Lock()
_blocks: list[mmap.mmap] = []


def _new_block(size: int) -> mmap.mmap:
    """Map `size` bytes; private, so that a forked process gets a copy."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE is not None:
        with contextlib.suppress(OSError):  # a kernel without large pages
            block.madvise(_HUGE)
    return block


def _references(blocks: list[mmap.mmap], i: int) -> int:
    return sys.getrefcount(blocks[i])


_IDLE = _references([mmap.mmap(-1, mmap.PAGESIZE)], 0)  # of a block that nothing but the list refers to


def _take(size: int) -> mmap.mmap:
    """Return the smallest free block of at least `size` bytes, or a new one; drop free ones beyond `KEPT`."""
    free = [i for i in range(len(_blocks)) if _references(_blocks, i) == _IDLE]
    fitting = [i for i in free if len(_blocks[i]) >= size]
    if fitting:
        return _blocks[min(fitting, key=lambda i: len(_blocks[i]))]
    kept = 0
    for i in reversed(free):
        kept += len(_blocks[i])
        if kept > KEPT:
            del _blocks[i]
    _blocks.append(_new_block(size))
    return _blocks[-1]


def scratch(*shape: int) -> Tensor:
    """Return an uninitialised float32 CPU tensor; a large one in a kept block."""
    count = 1
    for side in shape:
        count *= side
    if 4 * count < SMALLEST or sys.platform != "linux":
        return torch.empty(shape, dtype=torch.float32)
    with _lock:  # the tensor refers to the block before another thread looks for a free one
        block = _take(-(-4 * count // _PAGE) * _PAGE)
        return torch.frombuffer(block, dtype=torch.float32, count=count).view(shape)
