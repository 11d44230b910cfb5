"""MF: morphological pyramid by half gradients, with high-pass modulation.

Paper: R. Restaino, G. Vivone, M. Dalla Mura, J. Chanussot, "Fusion of multispectral and panchromatic images based on
morphological operators", IEEE TIP 25(6), 2016.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.model.classical.base import Classical, Windows, modulated
from lemamba.model.classical.mtf_glp import Matching, matching
from lemamba.model.classical.statistics import gather
from lemamba.operators import imresize
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


def half_gradient(x: Tensor) -> Tensor:
    """Mean of dilation and erosion by the 3x3 cross; what lies outside the image is ignored. (B, C, H, W) both."""
    largest = _extreme(x, -torch.inf, torch.maximum)
    smallest = _extreme(x, torch.inf, torch.minimum)
    return (largest + smallest) / 2


def _extreme(x: Tensor, outside: float, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    rows = F.pad(x, (0, 0, 1, 1), value=outside)
    columns = F.pad(x, (1, 1, 0, 0), value=outside)
    result = x
    for shifted in (rows[..., :-2, :], rows[..., 2:, :], columns[..., :-2], columns[..., 2:]):
        result = choose(result, shifted)
    return result


@register_model(
    "MF",
    tasks=("pansharpening",),
    ratios=(2, 4, 8, 16),
    family="classical",
    tileable=False,
    paper="Restaino et al., TIP 25(6), 2016",
)
class MF(Classical):
    """Half gradients and decimation, level by level, brought back by bilinear enlargement. Ratios that are powers of 2.

    A level halves the image, so a ratio of 3 has no pyramid. At ratio 4 the decimations take offsets 1 and 0, so that
    the low-pass image lies half a pixel off: so it is published. Other ratios go on in turns.
    """

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on, in whole MS pixels."""
        return 4 * self.ratio

    def fit(self, windows: Windows) -> Matching:
        """Learn the matching of PAN to the bands."""
        (moments,) = gather(lambda w: (w.fine(w.lms, w.pan),), windows())
        bands = len(self.gains)
        return matching(moments, bands, moments.sd(bands))

    def inject(self, window: Window, fitted: Matching) -> Tensor:
        """Fuse a window; gains are not negative, so the pyramid of PAN serves all bands."""
        levels = self.ratio.bit_length() - 1
        smooth = window.pan
        for level in range(levels):
            first = (level + 1) % 2
            smooth = half_gradient(smooth)[..., first::2, first::2]
        for _ in range(levels):
            smooth = imresize(smooth, 2, "bilinear")
        return modulated(window.lms, fitted.matched(window.pan), fitted.matched(smooth), fitted.mean)
