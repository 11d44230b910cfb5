"""GSA-HS: adaptive Gram-Schmidt with a guide of several bands, each sharpening the bands that it is most like.

Papers: M. Selva, B. Aiazzi, F. Butera, L. Chiarantini, S. Baronti, "Hyper-sharpening: a first approach on SIM-GA data",
IEEE JSTARS 8(6), 2015; N. Yokoya, C. Grohnfeldt, J. Chanussot, "Hyperspectral and multispectral data fusion: a
comparative review of the recent literature", IEEE GRSM 5(2), 2017.
Shapes: ms (B, C, h, w), lms and sr (B, C, H, W), pan (B, P, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.filters import glp_margin
from lemamba.model.classical.statistics import gather, quotient, solve
from lemamba.operators import mtf_filter, sample
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "GSA-HS",
    tasks=("hmif",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16, 32),
    family="classical",
    tileable=False,
    paper="Selva et al., JSTARS 8(6), 2015",
)
class GSAHS(Classical):
    """``lms_b + gain_b (guide_p - I_p)``: p is the guide band that correlates best with band b at MS size.

    I_p is the regression of the low-pass guide band on the bands assigned to it. A guide band to which none is
    assigned is not used.
    """

    single_guide = False

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio) + 2 * self.ratio

    def fit(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weights of the intensities (P, C), their constants (P,), assignment and gains (C,)."""
        bands = len(self.gains)

        def features(w: Window) -> tuple[Tensor, Tensor]:
            smooth = sample(mtf_filter(w.pan, 0.3, self.scale), w.geometry, tuple(w.ms.shape[-2:]))
            return w.coarse(w.ms, smooth), w.fine(w.lms, w.pan)

        low, fine = gather(features, windows())
        deviation = low.covariance.diagonal().clamp_min(0).sqrt()
        similar = quotient(low.covariance[:bands, bands:], torch.outer(deviation[:bands], deviation[bands:]))
        assigned = similar.abs().argmax(1)
        weights = torch.zeros(similar.shape[1], bands, dtype=low.covariance.dtype)
        gains = torch.zeros(bands, dtype=low.covariance.dtype)
        for p in range(len(weights)):
            group = (assigned == p).nonzero()[:, 0]
            if len(group):
                normal = low.covariance[group][:, group]
                weights[p, group] = solve(normal, low.covariance[group, bands + p][:, None])[:, 0]
                covariance = fine.covariance[group][:, group] @ weights[p, group]
                gains[group] = quotient(covariance, weights[p, group] @ covariance)
        return weights, fine.mean[bands:] - weights @ fine.mean[:bands], assigned, gains

    def inject(self, window: Window, fitted: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Fuse a window."""
        weights, constants, assigned, gains = fitted
        intensity = torch.einsum("pc,bchw->bphw", weights.to(window.lms), window.lms)
        details = window.pan - intensity - column(constants, window.lms)
        return window.lms + column(gains, window.lms) * details[:, assigned]
