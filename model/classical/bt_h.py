"""BT-H: Brovey transform with haze correction and a regressed intensity.

Paper: S. Lolli, L. Alparone, A. Garzelli, G. Vivone, "Haze correction for contrast-based multispectral
pansharpening", IEEE GRSL 14(12), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import EPS, Classical, constant_like
from lemamba.model.classical.filters import ideal_low_pass
from lemamba.model.classical.statistics import combine, mean, percentile, quotient, regress, sd
from lemamba.utils.registry import register_model

_FOUR_BANDS = (0.95, 0.45, 0.40, 0.05)  # blue, green, red, near infrared


def haze(lms: Tensor) -> Tensor:
    """Path radiance of each band (B, C, 1, 1): a share of the 1st percentile for 4 bands, else the minimum."""
    if lms.shape[1] == len(_FOUR_BANDS):
        return constant_like(lms, _FOUR_BANDS) * percentile(lms, 1)
    return lms.amin(dim=(-2, -1), keepdim=True)


@register_model(
    "BT-H",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Lolli et al., GRSL 14(12), 2017",
)
class BTH(Classical):
    """Contrast-based (multiplicative) injection after subtracting the haze of every band."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        smooth = ideal_low_pass(pan, self.ratio)
        weights = regress(smooth, lms)
        clear = lms - haze(lms)
        intensity = combine(weights, clear)
        matched = (pan - mean(smooth)) * quotient(sd(intensity), sd(smooth)) + mean(intensity)
        return torch.clamp_min(clear, 0) * (matched / (intensity + EPS)) + (lms - clear)
