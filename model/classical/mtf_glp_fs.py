"""MTF-GLP-FS: the generalised Laplacian pyramid with injection gains estimated at full scale.

Paper: G. Vivone, R. Restaino, J. Chanussot, "Full scale regression-based injection coefficients for panchromatic
sharpening", IEEE TIP 27(7), 2018.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.filters import glp_low_pass, glp_margin
from lemamba.model.classical.statistics import Moments, gather, quotient
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


class Pyramid(Classical):
    """Base of MTF-GLP-FS and MTF-GLP-HPM-R: PAN's low-pass version for every band, without matching."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio)

    def smooth(self, window: Window, gains: Sequence[float] | None = None) -> Tensor:
        """Return the low-pass PAN of every gain (1, ·, H, W); None = those of the bands."""
        return glp_low_pass(window.pan, gains or self.gains, window.geometry, tuple(window.ms.shape[-2:]))

    def moments(self, windows: Windows) -> Moments:
        """Gather the moments of [lms, smooth, pan]: 2 C + 1 features."""
        return gather((w.fine(w.lms, self.smooth(w), w.pan),) for w in windows())[0]


@register_model(
    "MTF-GLP-FS",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Vivone et al., TIP 27(7), 2018",
)
class MTFGLPFS(Pyramid):
    """``M_b + g_b (P - lowpass_b(P))`` with ``g_b = cov(M_b, P) / cov(lowpass_b(P), P)``; no histogram matching."""

    def fit(self, windows: Windows) -> Tensor:
        """Learn the gains (C,)."""
        bands, distinct = len(self.gains), sorted(set(self.gains))
        features = ((w.fine(w.lms, self.smooth(w, distinct), w.pan),) for w in windows())
        to_pan = gather(features, with_last=True)[0].covariance[:, 0]
        return quotient(to_pan[:bands], to_pan[[bands + distinct.index(gain) for gain in self.gains]])

    def inject(self, window: Window, fitted: Tensor) -> Tensor:
        """Fuse a window."""
        return torch.addcmul(window.lms, column(fitted, window.lms), window.pan - self.smooth(window))
