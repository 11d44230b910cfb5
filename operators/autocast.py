"""Switching autocast off where rounding to a half type would ruin the result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device: str) -> AbstractContextManager[None]:
    """Return a context without autocast for a device type; the meta device, which holds shapes only, has none."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
