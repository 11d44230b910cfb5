"""EXP: the interpolated MS image itself, the baseline of every table.

Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model("EXP", ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32), family="classical", paper="interpolation: the baseline")
class EXP(Classical):
    """Interpolation (23-tap polynomial, as in the data); the guide is ignored, so any number of its bands will do."""

    single_guide = False

    def inject(self, window: Window, fitted: None) -> Tensor:
        """Return a copy of lms."""
        return window.lms.clone()
