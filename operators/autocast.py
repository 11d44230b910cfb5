"""Autocast: what it casts to, and switching it off where rounding to a half type would ruin the result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device: str) -> AbstractContextManager[None]:
    """Return a context without autocast for a device type; the meta device, which holds shapes only, has none."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the half type that autocast casts to on a device type, or None where it is off."""
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None
