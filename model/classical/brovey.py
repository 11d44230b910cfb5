"""Brovey transform: multiply every band by PAN over the mean of the bands.

Paper: A. R. Gillespie, A. B. Kahle, R. E. Walker, "Color enhancement of highly correlated images. II. Channel ratio
and chromaticity transformation techniques", Remote Sensing of Environment 22(3), 1987.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lemamba.model.classical.base import EPS, Classical, Windows
from lemamba.model.classical.filters import pyramid_margin, pyramid_sample
from lemamba.model.classical.unseen import Smooth, smooth_of
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@dataclass(frozen=True)
class Matched:
    """What is subtracted from PAN, see `lemamba.model.classical.unseen`; None = nothing."""

    unseen: Smooth | None


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

    light = True
    brightness_of_pan = True

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return pyramid_margin(self.ratio) + 2 * self.ratio if self.other_units else 0

    def fit(self, windows: Windows) -> Matched:
        """Match a PAN of other units to the intensity locally: no factor is right everywhere."""
        if not self.other_units:
            return Matched(None)
        return Matched(smooth_of(windows, lambda w: pyramid_sample(w, self.ratio) - w.ms.mean(dim=1, keepdim=True)))

    def inject(self, window: Window, fitted: Matched) -> Tensor:
        """Fuse a window; a pixel where all bands are 0 stays 0."""
        lms, pan = window.crop(window.lms), window.crop(window.pan)
        if fitted.unseen is not None:
            pan = pan - fitted.unseen.at(window)
        return lms * (pan / (lms.mean(dim=1, keepdim=True) + EPS))
