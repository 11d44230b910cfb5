"""AWLP: additive wavelet luminance proportional.

Papers: X. Otazu, M. Gonzalez-Audicana, O. Fors, J. Nunez, "Introduction of sensor spectral response into image
fusion methods. Application to wavelet-based methods", IEEE TGRS 43(10), 2005; this variant: G. Vivone et al., IEEE
TGRS 53(5), 2015, with the matching of L. Alparone et al., IEEE TGRS 55(8), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import EPS, Classical, Windows, column
from lemamba.model.classical.filters import pyramid_low_pass, pyramid_margin, resize_low_pass, resize_margin
from lemamba.model.classical.mtf_glp import Matching, matching
from lemamba.model.classical.statistics import gather
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@register_model(
    "AWLP",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Otazu et al., TGRS 43(10), 2005",
)
class AWLP(Classical):
    """Details of the matched PAN in proportion to each band's share of the intensity.

    The low-pass is the published binomial's at ratio 4 (`pyramid_low_pass`).
    """

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on, in whole MS pixels."""
        cells = -(-max(pyramid_margin(self.ratio), resize_margin(self.ratio)) // self.ratio)
        return cells * self.ratio

    def fit(self, windows: Windows) -> Matching:
        """Learn the matching of PAN to the bands."""
        (moments,) = gather(lambda w: (w.fine(w.lms, w.pan, resize_low_pass(w.pan, self.ratio)),), windows())
        bands = len(self.gains)
        return matching(moments, bands, moments.sd(bands + 1))

    def inject(self, window: Window, fitted: Matching) -> Tensor:
        """Fuse a window; the low-pass is normalised and the matching affine, so one low-pass serves all bands."""
        proportion = window.lms / (window.lms.mean(dim=1, keepdim=True) + EPS)
        detail = window.pan - pyramid_low_pass(window.pan, self.ratio)
        return window.lms + detail * column(fitted.gain, detail) * proportion
