"""MTF-GLP-HPM-R: high-pass modulation after a regression-based matching of the PAN.

Paper: G. Vivone, R. Restaino, J. Chanussot, "A regression-based high-pass modulation pansharpening approach", IEEE
TGRS 56(2), 2018.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import EPS, Classical
from lemamba.model.classical.filters import glp_low_pass
from lemamba.model.classical.statistics import cov, mean, quotient
from lemamba.utils.registry import register_model


@register_model(
    "MTF-GLP-HPM-R",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Vivone et al., TGRS 56(2), 2018",
)
class MTFGLPHPMR(Classical):
    """``M_b (P + c_b) / (lowpass_b(P) + c_b)`` with ``c_b = mean(M_b)/g_b - mean(P)``, g_b the regression gain.

    Numerator and denominator are multiplied by g_b, so a band without correlation (g_b = 0) is unchanged.
    """

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        smooth = glp_low_pass(pan, self.gains, self.ratio)
        gain = quotient(cov(lms, smooth), cov(smooth, smooth))
        offset = mean(lms) - gain * mean(pan)
        return lms * (quotient(gain * pan + offset, gain * (smooth + EPS) + offset))
