"""MTF-GLP-HPM-R: high-pass modulation after a regression-based matching of the PAN.

Paper: G. Vivone, R. Restaino, J. Chanussot, "A regression-based high-pass modulation pansharpening approach", IEEE
TGRS 56(2), 2018.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import EPS, Windows, column, modulated
from lemamba.model.classical.mtf_glp_fs import Pyramid
from lemamba.model.classical.statistics import quotient
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "MTF-GLP-HPM-R",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Vivone et al., TGRS 56(2), 2018",
)
class MTFGLPHPMR(Pyramid):
    """``M_b (P + c_b) / (lowpass_b(P) + c_b)`` with ``c_b = mean(M_b)/g_b - mean(P)``, g_b the regression gain.

    Numerator and denominator are multiplied by g_b, so that a band without correlation (g_b = 0) stays as it is. Dark
    pixels: see `modulated`.
    """

    def fit(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Learn gains, offsets and means, (C,) each."""
        moments, bands = self.moments(windows), len(self.gains)
        own = moments.covariance[bands : 2 * bands, bands : 2 * bands].diagonal()
        gain = quotient(moments.covariance[:bands, bands : 2 * bands].diagonal(), own)
        return gain, moments.mean[:bands] - gain * moments.mean[-1], moments.mean[:bands]

    def inject(self, window: Window, fitted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Fuse a window."""
        gain, offset = (column(x, window.lms) for x in fitted[:2])
        smooth = self.smooth(window)
        return modulated(window.lms, gain * window.pan + offset, gain * (smooth + EPS) + offset, fitted[2])
