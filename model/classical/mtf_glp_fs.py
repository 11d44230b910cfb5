"""MTF-GLP-FS: the generalised Laplacian pyramid with injection gains estimated at full scale.

Paper: G. Vivone, R. Restaino, J. Chanussot, "Full scale regression-based injection coefficients for panchromatic
sharpening", IEEE TIP 27(7), 2018.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.filters import glp_low_pass, glp_margin
from lemamba.model.classical.statistics import Moments, gather, quotient
from lemamba.operators import mtf_sample
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


class Pyramid(Classical):
    """Base of MTF-GLP-FS and MTF-GLP-HPM-R: PAN's low-pass version for every band, without matching."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on."""
        return glp_margin(self.ratio)

    def smooth(self, window: Window) -> Tensor:
        """Return the low-pass PAN of every band (1, C, H, W)."""
        return glp_low_pass(window.pan, self.gains, window.geometry, tuple(window.ms.shape[-2:]))

    def moments(self, windows: Windows) -> Moments:
        """Gather the moments of [lms, smooth, pan]: 2 C + 1 features."""
        return gather(lambda w: (w.fine(w.lms, self.smooth(w), w.pan),), windows())[0]


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

    light = True

    def fit(self, windows: Windows) -> Tensor:
        """Learn the gains (C,)."""
        to_pan = gather(lambda w: (w.moments(self._low(w)),), windows(), with_last=True)[0].covariance[:, 0]
        bands = len(self.gains)
        return quotient(to_pan[:bands], to_pan[[bands + place for place in self._places]])

    def inject(self, window: Window, fitted: Tensor) -> Tensor:
        """Fuse a window: what is taken away from PAN's details is taken from ms before the one interpolation."""
        gain = column(fitted, window.pan)
        rest = window.blend(coarse=-gain * self._low(window)[:, self._places])
        return torch.addcmul(rest, gain, window.crop(window.pan))

    @property
    def _places(self) -> list[int]:
        """Place of every band's gain among the different ones."""
        distinct = sorted(set(self.gains))
        return [distinct.index(gain) for gain in self.gains]

    def _low(self, window: Window) -> Tensor:
        """Return the low-pass PAN of every different gain at the MS pixels (1, ·, h, w)."""
        size = tuple(window.ms.shape[-2:])
        return mtf_sample(window.pan, sorted(set(self.gains)), self.scale, window.geometry, size)
