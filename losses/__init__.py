"""Losses: `loss(sr, gt) -> {"total": …, "<part>": …}`, scalars; sr, gt (B, C, H, W) in [0, 1]. One file per loss.

"total" is what is minimised; the parts are logged and, weighted as each file says, add up to it. A new loss is one
file here, or in a folder named in ``LEMAMBA_MODEL_PATH``, with a class under ``@register_loss("name")``.

Losses without ground truth compare sr with the pair it was fused from, `loss(sr, ms, pan, …)`; as they know sensor and
geometry of the pair, they are built in code and have no name: `spectral`, `structural`, `khan` are terms, `zpnn`,
`lambda_pnn`, `zspan` the losses of the methods that adapt.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from lemamba.utils.errors import UserError, nearest
from lemamba.utils.registry import load_class, lookup, scan

__all__ = ["build_loss", "list_losses"]

_FOLDER = Path(__file__).resolve().parent


def list_losses() -> list[str]:
    """Return the registered names, sorted, without importing any loss."""
    return sorted(entry.name for entry in scan([_FOLDER], "register_loss").values())


def build_loss(name: str, **args: Any) -> nn.Module:
    """Build the loss called `name`.

    Args:
        name: one of `list_losses()`; case, ``-`` and ``_`` do not matter.
        **args: arguments of the loss, e.g. ``weight=0.1`` for l1ssim.

    Raises:
        UserError: unknown name or argument, with the nearest known one.
    """
    entry = lookup(scan([_FOLDER], "register_loss"), name, "loss")
    cls = load_class(entry, _FOLDER)
    known = list(inspect.signature(cls).parameters)
    for arg in args:
        if arg not in known:
            raise UserError(
                f'loss {entry.name} has no argument "{arg}"{nearest(arg, known)}; known: {", ".join(known)}'
            )
    return cls(**args)
