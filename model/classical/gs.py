"""GS: Gram-Schmidt spectral sharpening, intensity = mean of the bands (mode 1).

Sources: C. A. Laben, B. V. Brower, US patent 6 011 875, 2000; in the form of B. Aiazzi, S. Baronti, M. Selva,
"Improving component substitution pansharpening through multivariate regression of MS+Pan data", IEEE TGRS 45(10), 2007.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.statistics import cov, mean, quotient, sd
from lemamba.utils.registry import register_model


def inject(lms: Tensor, detail: Tensor, intensity: Tensor) -> Tensor:
    """Add ``cov(I, M_b)/var(I) * detail`` to each band; the mean of the band is kept.

    Args:
        lms: (B, C, H, W).
        detail: (B, 1, H, W).
        intensity: (B, 1, H, W), of mean zero.
    """
    gain = quotient(cov(intensity, lms), cov(intensity, intensity))
    fused = lms + gain * detail
    return fused - mean(fused) + mean(lms)


@register_model(
    "GS",
    tasks=("pansharpening",),
    ratios=(2, 4, 8, 16),
    family="classical",
    tileable=False,
    paper="Laben and Brower, US patent 6 011 875, 2000",
)
class GS(Classical):
    """Gram-Schmidt: the PAN, matched to the intensity, replaces it."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        intensity = lms.mean(dim=1, keepdim=True)
        intensity = intensity - mean(intensity)
        matched = (pan - mean(pan)) * quotient(sd(intensity), sd(pan))
        return inject(lms, matched - intensity, intensity)
