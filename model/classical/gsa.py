"""GSA: adaptive Gram-Schmidt, intensity regressed on the low-pass PAN.

Paper: B. Aiazzi, S. Baronti, M. Selva, "Improving component substitution pansharpening through multivariate
regression of MS+Pan data", IEEE TGRS 45(10), 2007.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.filters import binomial_low_pass
from lemamba.model.classical.gs import inject
from lemamba.model.classical.statistics import combine, mean, regress, with_ones
from lemamba.operators import decimate
from lemamba.utils.registry import register_model


@register_model(
    "GSA",
    tasks=("pansharpening",),
    ratios=(4,),
    family="classical",
    tileable=False,
    paper="Aiazzi et al., TGRS 45(10), 2007",
)
class GSA(Classical):
    """Adaptive Gram-Schmidt. Ratio 4 only: its low-pass filter is a fixed 17-tap binomial made for it."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        pan = pan - mean(pan)
        smooth = decimate(binomial_low_pass(pan), self.ratio)
        weights = regress(smooth, with_ones(ms - mean(ms)))[..., 1:]  # the mean below removes the intercept
        intensity = combine(weights, lms - mean(lms))
        intensity = intensity - mean(intensity)
        return inject(lms, pan - intensity, intensity)
