"""C-GLP: the generalised Laplacian pyramid with injection gains of each segment of the scene.

Paper: R. Restaino, M. Dalla Mura, G. Vivone, J. Chanussot, "Context-adaptive pansharpening based on image
segmentation", IEEE TGRS 55(2), 2017.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.c_gsa import Context
from lemamba.model.classical.filters import glp_low_pass, glp_margin
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "C-GLP",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Restaino et al., TGRS 55(2), 2017",
)
class CGLP(Context):
    """The low-resolution PAN is that of MTF-GLP, with the segments and gains of C-GSA."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio)

    def low_pass(self, window: Window, low: Tensor | None) -> Tensor:
        """Return PAN filtered by the bands' MTF, decimated and interpolated."""
        return glp_low_pass(window.pan, self.gains, window.geometry, tuple(window.ms.shape[-2:]))
