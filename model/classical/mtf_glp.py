"""MTF-GLP: generalised Laplacian pyramid with MTF-matched filters, additive injection.

Papers: B. Aiazzi, L. Alparone, S. Baronti, A. Garzelli, M. Selva, "MTF-tailored multiscale fusion of high-resolution
MS and Pan imagery", PE&RS 72(5), 2006; histogram matching: L. Alparone, A. Garzelli, G. Vivone, "Intersensor
statistical matching for pansharpening: theoretical issues and practical solutions", IEEE TGRS 55(8), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.filters import glp_low_pass, ideal_low_pass
from lemamba.model.classical.statistics import match, sd
from lemamba.utils.registry import register_model


class MatchedPyramid(Classical):
    """Base of MTF-GLP and MTF-GLP-HPM: the matched PAN of every band and its low-pass version."""

    def pyramid(self, lms: Tensor, pan: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matched PAN and its low-pass, both (B, C, H, W)."""
        matched = match(pan, lms, sd(ideal_low_pass(pan, self.ratio)))
        return matched, glp_low_pass(matched, self.gains, self.ratio)


@register_model(
    "MTF-GLP",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Aiazzi et al., PE&RS 72(5), 2006; Alparone et al., TGRS 55(8), 2017",
)
class MTFGLP(MatchedPyramid):
    """``M_b + P_b - lowpass(P_b)``."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        matched, smooth = self.pyramid(lms, pan)
        return lms + matched - smooth
