"""EXP: the interpolated MS image itself, the baseline of every table.

Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.utils.registry import register_model


@register_model("EXP", ratios=(2, 4, 8, 16), family="classical", paper="interpolation: the baseline")
class EXP(Classical):
    """Interpolation (23-tap polynomial, as in the data); the guide is ignored and may have any number of bands."""

    single_guide = False

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Return a copy of lms (B, C, H, W)."""
        return lms.clone()
