"""BT-H: Brovey transform with haze correction and a regressed intensity.

Paper: S. Lolli, L. Alparone, A. Garzelli, G. Vivone, "Haze correction for contrast-based multispectral
pansharpening", IEEE GRSL 14(12), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.classical.base import EPS, Classical, Windows, column
from lemamba.model.classical.filters import ideal_low_pass
from lemamba.model.classical.statistics import gather, percentile, quotient, solve
from lemamba.operators.mtf import REACH as MTF_REACH
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model

_FOUR_BANDS = (0.95, 0.45, 0.40, 0.05)  # blue, green, red, near infrared


@dataclass(frozen=True)
class Fitted:
    """Haze (C,) and weights (C,) of the intensity; ``matched = (pan - pan_mean) * pan_gain + intensity_mean``."""

    haze: Tensor
    weights: Tensor
    pan_mean: float
    pan_gain: float
    intensity_mean: float


@register_model(
    "BT-H",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Lolli et al., GRSL 14(12), 2017",
)
class BTH(Classical):
    """Contrast-based (multiplicative) injection after subtracting the haze of every band."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return MTF_REACH

    def fit(self, windows: Windows) -> Fitted:
        """Regress the low-pass PAN on lms, without an intercept; find the haze of every band.

        The haze is a share of the 1st percentile for 4 bands, else the minimum.
        """
        (moments,) = gather(lambda w: (w.fine(w.lms, ideal_low_pass(w.pan, self.scale)),), windows())
        bands = len(self.gains)
        if bands == len(_FOUR_BANDS):
            low = percentile(lambda: (w.fine(w.lms) for w in windows()), moments.part(slice(bands)), 1)
            haze = torch.tensor(_FOUR_BANDS, dtype=torch.float64) * low
        else:
            haze = moments.smallest[:bands]
        products = moments.second()
        weights = solve(products[:bands, :bands], products[:bands, bands:])[:, 0]
        deviation = (weights @ moments.covariance[:bands, :bands] @ weights).clamp_min(0).sqrt()
        pan_gain = float(quotient(deviation, moments.sd(bands)))
        intensity_mean = float(weights @ (moments.mean[:bands] - haze))
        return Fitted(haze, weights, float(moments.mean[bands]), pan_gain, intensity_mean)

    def inject(self, window: Window, fitted: Fitted) -> Tensor:
        """Fuse a window."""
        clear = window.lms - column(fitted.haze, window.lms)
        intensity = (clear * column(fitted.weights, clear)).sum(1, keepdim=True)
        matched = (window.pan - fitted.pan_mean) * fitted.pan_gain + fitted.intensity_mean
        return torch.clamp_min(clear, 0) * (matched / (intensity + EPS)) + (window.lms - clear)
