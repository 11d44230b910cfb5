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

from lemamba.model.classical.base import EPS, Classical
from lemamba.model.classical.statistics import match, sd
from lemamba.operators import imresize
from lemamba.utils.registry import register_model


def half_gradient(x: Tensor) -> Tensor:
    """Mean of dilation and erosion by the 3x3 cross; samples outside the image are ignored. (B, C, H, W) both."""
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
    ratios=(4,),
    family="classical",
    tileable=False,
    paper="Restaino et al., TIP 25(6), 2016",
)
class MF(Classical):
    """Two levels of half gradients and decimation, brought back by bilinear enlargement. Ratio 4 only.

    The decimations take offsets 1 and 0, which shifts the low-pass image by half a pixel, as published.
    """

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        matched = match(pan, lms, sd(pan))
        smooth = half_gradient(matched)[..., 1::2, 1::2]
        smooth = half_gradient(smooth)[..., 0::2, 0::2]
        for _ in range(2):
            smooth = imresize(smooth, 2, "bilinear")
        return lms * (matched / (smooth + EPS))
