"""MTF-GLP-HPM: the generalised Laplacian pyramid with multiplicative (high-pass modulation) injection.

Papers: B. Aiazzi et al., PE&RS 72(5), 2006; G. Vivone, R. Restaino, M. Dalla Mura, G. Licciardi, J. Chanussot,
"Contrast and error-based fusion schemes for multispectral image pansharpening", IEEE GRSL 11(5), 2014.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import modulated
from lemamba.model.classical.mtf_glp import MatchedPyramid, Matching
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "MTF-GLP-HPM",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Vivone et al., GRSL 11(5), 2014",
)
class MTFGLPHPM(MatchedPyramid):
    """``M_b * P_b / lowpass(P_b)``; dark pixels: see `modulated`."""

    def inject(self, window: Window, fitted: Matching) -> Tensor:
        """Fuse a window."""
        matched, smooth = self.pyramid(window, fitted)
        return modulated(window.lms, matched, smooth, fitted.mean)
