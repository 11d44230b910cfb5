"""BDSD-PC: band-dependent spatial detail with physical constraints on the signs.

Papers: G. Vivone, "Robust band-dependent spatial-detail approaches for panchromatic sharpening", IEEE TGRS 57(9),
2019; after A. Garzelli, F. Nencini, L. Capobianco, "Optimal MMSE pan sharpening of very high resolution
multispectral images", IEEE TGRS 46(1), 2008.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W); K = C + 1 regressors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.statistics import gather
from lemamba.operators import imresize, mtf_filter
from lemamba.operators.least_squares import non_negative_least_squares, square_root
from lemamba.operators.mtf import REACH as MTF_REACH
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "BDSD-PC",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Vivone, TGRS 57(9), 2019",
)
class BDSDPC(Classical):
    """Details from all bands and the PAN, weights learned one scale down: PAN's non-negative, the bands' non-positive.

    The published code takes the low-resolution PAN at a fixed offset, right for ratio 4; here it is the PAN pixel
    nearest to the centres of MS pixels, which is the published one there.
    """

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on, in whole MS pixels."""
        return (MTF_REACH + 3) * self.ratio

    def fit(self, windows: Windows) -> Tensor:
        """Learn one set of weights (C, C + 1) per band."""
        r, bands = self.ratio, len(self.gains)
        first = [math.floor(offset + 0.5) % r for offset in self.geometry.offset]

        def features(w: Window) -> tuple[Tensor]:
            low = imresize(w.lms, 1 / r, "bicubic")
            smooth = mtf_filter(low, self.gains, self.scale)
            low_pan = mtf_filter(w.pan, self.sensor.pan_gain, self.scale)[..., first[0] :: r, first[1] :: r]
            return (_coarse(w, torch.cat([low_pan, -smooth, low - smooth], dim=1), r),)

        (moments,) = gather(features, windows())
        products = moments.second() * moments.count
        A, b = square_root(products[: bands + 1, : bands + 1], products[: bands + 1, bands + 1 :])
        return torch.stack([non_negative_least_squares(A, b[:, band]) for band in range(bands)])

    def inject(self, window: Window, fitted: Tensor) -> Tensor:
        """Fuse a window."""
        details = torch.einsum("ct,bthw->bchw", fitted.to(window.lms), torch.cat([window.pan, -window.lms], dim=1))
        return window.lms + details


def _coarse(window: Window, x: Tensor, r: int) -> Tensor:
    """Features (F, n) at r x r cells of PAN pixels that lie inside the margins and are valid as a whole."""
    cells = tuple(slice(*(None if edge is None else edge // r for edge in (s.start, s.stop))) for s in window.inner)
    inside = x[0][:, cells[0], cells[1]]
    if window.valid is None:
        return inside.flatten(1)
    h, w = inside.shape[-2:]
    whole = window.valid[: h * r, : w * r].reshape(h, r, w, r).all(3).all(1)
    return inside[:, whole]
