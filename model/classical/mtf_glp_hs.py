"""MTF-GLP-HS: the generalised Laplacian pyramid with a guide synthesised for every band from all guide bands.

Papers: M. Selva, B. Aiazzi, F. Butera, L. Chiarantini, S. Baronti, "Hyper-sharpening: a first approach on SIM-GA data",
IEEE JSTARS 8(6), 2015 (the synthesised band); as compared by N. Yokoya, C. Grohnfeldt, J. Chanussot, IEEE GRSM 5(2),
2017.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows
from lemamba.model.classical.filters import glp_low_pass, glp_margin
from lemamba.model.classical.statistics import gather, quotient, solve
from lemamba.operators import mtf_filter, sample
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "MTF-GLP-HS",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Selva et al., JSTARS 8(6), 2015",
)
class MTFGLPHS(Classical):
    """``lms_b + gain_b (G_b - lowpass_b(G_b))``: G_b is band b's regression on all guide bands at MS size."""

    single_guide = False

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio)

    def fit(self, windows: Windows) -> Tensor:
        """Return the weight of every guide band in every band's detail (C, P), gains included."""
        bands = len(self.gains)

        def features(w: Window) -> tuple[Tensor, Tensor]:
            size = tuple(w.ms.shape[-2:])
            smooth = sample(mtf_filter(w.pan, self.mean_gain, self.scale), w.geometry, size)
            return w.coarse(w.ms, smooth), w.fine(w.lms, self.smooth(w))

        low, fine = gather(features, windows())
        weights = solve(low.covariance[bands:, bands:], low.covariance[bands:, :bands]).T
        across = (fine.covariance[:bands, bands:] * weights).sum(1)
        variance = ((weights @ fine.covariance[bands:, bands:]) * weights).sum(1)
        return quotient(across, variance)[:, None] * weights

    @property
    def mean_gain(self) -> float:
        """One MTF gain for all bands: a low-pass guide for each of 200 would cost 200 filters."""
        return sum(self.gains) / len(self.gains)

    def smooth(self, window: Window) -> Tensor:
        """Return the low-pass guide (1, P, H, W)."""
        size = tuple(window.ms.shape[-2:])
        bands = [glp_low_pass(band[:, None], [self.mean_gain], window.geometry, size) for band in window.pan.unbind(1)]
        return torch.cat(bands, dim=1)

    def inject(self, window: Window, fitted: Tensor) -> Tensor:
        """Fuse a window."""
        return window.lms + torch.einsum("cp,bphw->bchw", fitted.to(window.lms), window.pan - self.smooth(window))
