"""MTF-GLP: generalised Laplacian pyramid with MTF-matched filters, additive injection.

Papers: B. Aiazzi, L. Alparone, S. Baronti, A. Garzelli, M. Selva, "MTF-tailored multiscale fusion of high-resolution
MS and Pan imagery", PE&RS 72(5), 2006; histogram matching: L. Alparone, A. Garzelli, G. Vivone, "Intersensor
statistical matching for pansharpening: theoretical issues and practical solutions", IEEE TGRS 55(8), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.filters import glp_low_pass, glp_margin, ideal_low_pass
from lemamba.model.classical.statistics import Moments, gather, quotient
from lemamba.operators import mtf_kernel
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@dataclass(frozen=True)
class Matching:
    """Histogram matching of PAN to every band: ``P_b = gain_b (pan - pan_mean) + mean_b``."""

    gain: Tensor
    mean: Tensor
    pan_mean: float

    def matched(self, pan: Tensor) -> Tensor:
        """Match PAN (1, 1, H, W) to the bands (1, C, H, W)."""
        return (pan - self.pan_mean) * column(self.gain, pan) + column(self.mean, pan)


def matching(moments: Moments, bands: int, deviation: Tensor) -> Matching:
    """Derive the matching from the moments of [lms, pan, …] and the deviation that the method takes for PAN."""
    gain = quotient(moments.sd(slice(bands)), deviation)
    return Matching(gain, moments.mean[:bands], float(moments.mean[bands]))


class MatchedPyramid(Classical):
    """Base of MTF-GLP and MTF-GLP-HPM: the matched PAN of every band and its low-pass version."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio)

    def fit(self, windows: Windows) -> Matching:
        """Learn the matching."""
        (moments,) = gather(lambda w: (w.fine(w.lms, w.pan, ideal_low_pass(w.pan, self.scale)),), windows())
        bands = len(self.gains)
        return matching(moments, bands, moments.sd(bands + 1))

    def pyramid(self, window: Window, fitted: Matching) -> tuple[Tensor, Tensor]:
        """Return the matched PAN and its low-pass, both (1, C, H, W).

        The matching is affine and the low-pass linear, so one low-pass of PAN serves bands of equal gains.
        """
        matched = fitted.matched(window.pan)
        size = tuple(window.ms.shape[-2:])
        smooth = glp_low_pass(window.pan - fitted.pan_mean, self.gains, window.geometry, size)
        sums = torch.stack([mtf_kernel(g, self.scale).sum() for g in self.gains])  # the kernels are not normalised
        return matched, smooth * column(fitted.gain, smooth) + column(fitted.mean * sums, smooth)


@register_model(
    "MTF-GLP",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Aiazzi et al., PE&RS 72(5), 2006; Alparone et al., TGRS 55(8), 2017",
)
class MTFGLP(MatchedPyramid):
    """``M_b + P_b - lowpass(P_b)``."""

    def inject(self, window: Window, fitted: Matching) -> Tensor:
        """Fuse a window."""
        matched, smooth = self.pyramid(window, fitted)
        return window.lms + matched - smooth
