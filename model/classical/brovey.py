"""Brovey transform: multiply every band by PAN over the mean of the bands.

Paper: A. R. Gillespie, A. B. Kahle, R. E. Walker, "Color enhancement of highly correlated images. II. Channel ratio
and chromaticity transformation techniques", Remote Sensing of Environment 22(3), 1987.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import EPS, Classical
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "Brovey",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    paper="Gillespie et al., RSE 22(3), 1987",
)
class Brovey(Classical):
    """``sr_b = lms_b * pan / (mean of lms over bands + 2.2e-16)``: pixel by pixel, so tiles equal the whole.

    The mean of the fused bands is PAN, so they are as bright as PAN is.
    """

    brightness_of_pan = True

    def inject(self, window: Window, fitted: None) -> Tensor:
        """Fuse a window; a pixel where all bands are 0 stays 0."""
        return window.lms * (window.pan / (window.lms.mean(dim=1, keepdim=True) + EPS))
