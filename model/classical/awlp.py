"""AWLP: additive wavelet luminance proportional.

Papers: X. Otazu, M. Gonzalez-Audicana, O. Fors, J. Nunez, "Introduction of sensor spectral response into image
fusion methods. Application to wavelet-based methods", IEEE TGRS 43(10), 2005; this variant: G. Vivone et al., IEEE
TGRS 53(5), 2015, with the matching of L. Alparone et al., IEEE TGRS 55(8), 2017.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from torch import Tensor

from lemamba.model.classical.base import EPS, Classical
from lemamba.model.classical.filters import binomial_low_pass, resize_low_pass
from lemamba.model.classical.statistics import match, sd
from lemamba.utils.registry import register_model


@register_model(
    "AWLP",
    tasks=("pansharpening",),
    ratios=(4,),
    family="classical",
    tileable=False,
    paper="Otazu et al., TGRS 43(10), 2005",
)
class AWLP(Classical):
    """Details of the matched PAN in proportion to each band's share of the intensity.

    Ratio 4 only: its low-pass filter is a fixed 17-tap binomial made for it.
    """

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        matched = match(pan, lms, sd(resize_low_pass(pan, self.ratio)))
        proportion = lms / (lms.mean(dim=1, keepdim=True) + EPS)
        return lms + (matched - binomial_low_pass(matched)) * proportion
