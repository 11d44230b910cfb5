"""Losses: `loss(sr, gt) -> {"total": …, "<part>": …}`, scalars; sr, gt (B, C, H, W) in [0, 1]. One file per loss.

"total" is what is minimised; the parts are logged and, weighted as each file says, add up to it.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from lemamba.utils.errors import UserError, nearest

LOSSES = {"l1": "L1", "mse": "MSE", "l1ssim": "L1SSIM", "charbonnier": "Charbonnier", "l1sam": "L1SAM"}


def list_losses() -> list[str]:
    """Return the names `build_loss` knows."""
    return list(LOSSES)


def build_loss(name: str, **args: Any) -> nn.Module:
    """Build the loss called `name` (any case).

    Args:
        name: one of `list_losses()`.
        **args: arguments of the loss, e.g. ``weight=0.1`` for l1ssim.

    Raises:
        UserError: unknown name or argument, with the nearest known one.
    """
    key = name.lower()
    if key not in LOSSES:
        raise UserError(f'unknown loss "{name}"{nearest(name, LOSSES)}; known: {", ".join(LOSSES)}')
    cls = getattr(importlib.import_module(f"lemamba.losses.{key}"), LOSSES[key])
    known = list(inspect.signature(cls).parameters)
    for arg in args:
        if arg not in known:
            raise UserError(f'loss {key} has no argument "{arg}"{nearest(arg, known)}; known: {", ".join(known)}')
    return cls(**args)
