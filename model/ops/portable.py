"""Operators that leave torch: inside `portable()` every layer uses plain torch operations, which exporters know.

The compiled and Triton kernels are operators of this project; a file for another runtime cannot call them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_state = {"portable": False}


def is_portable() -> bool:
    """Return whether the caller is inside `portable()`."""
    return _state["portable"]


@contextmanager
def portable() -> Iterator[None]:
    """Let all layers of this process use plain torch operations, and the scan its form for exporters.

    Only `torch.export` is meant to run inside: executed directly, the scan is slow here.
    """
    before, _state["portable"] = _state["portable"], True
    try:
        yield
    finally:
        _state["portable"] = before
