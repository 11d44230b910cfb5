"""MTF-GLP-FS: the generalised Laplacian pyramid with injection gains estimated at full scale.

Paper: G. Vivone, R. Restaino, J. Chanussot, "Full scale regression-based injection coefficients for panchromatic
sharpening", IEEE TIP 27(7), 2018.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.filters import glp_low_pass
from lemamba.model.classical.statistics import cov, quotient
from lemamba.utils.registry import register_model


@register_model(
    "MTF-GLP-FS",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Vivone et al., TIP 27(7), 2018",
)
class MTFGLPFS(Classical):
    """``M_b + g_b (P - lowpass_b(P))`` with ``g_b = cov(M_b, P) / cov(lowpass_b(P), P)``; no histogram matching."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        smooth = glp_low_pass(pan, self.gains, self.ratio)
        gain = quotient(cov(lms, pan), cov(smooth, pan))
        return lms + gain * (pan - smooth)
