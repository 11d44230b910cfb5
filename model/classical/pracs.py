"""PRACS: partial replacement adaptive component substitution.

Paper: J. Choi, K. Yu, Y. Kim, "A new adaptive component-substitution-based satellite image fusion by using partial
replacement", IEEE TGRS 49(1), 2011; as the pansharpening toolbox computes it.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical
from lemamba.model.classical.filters import resize_low_pass
from lemamba.model.classical.statistics import combine, corr, mean, quotient, regress, sd, with_ones
from lemamba.utils.registry import register_model

_BETA = 0.95  # the paper's normalisation of the high-frequency injection


@register_model(
    "PRACS",
    tasks=("pansharpening",),
    ratios=(2, 4, 8),
    family="classical",
    tileable=False,
    paper="Choi et al., TGRS 49(1), 2011",
)
class PRACS(Classical):
    """Each band gets its own high-resolution component, a mixture of PAN and band by their correlation."""

    def fuse(self, ms: Tensor, lms: Tensor, pan: Tensor) -> Tensor:
        """Fuse float64 images."""
        matched = (lms - mean(lms)) * quotient(sd(pan), sd(lms)) + mean(pan)
        matched = torch.clamp_min(matched, 0)
        regressors = with_ones(matched)
        intensity = combine(regress(resize_low_pass(pan, self.ratio), regressors), regressors)
        share = corr(intensity, matched)
        component = share * pan + (1 - share) * matched
        low = combine(regress(resize_low_pass(component, self.ratio), regressors), regressors)
        detail = component - low
        detail = detail - mean(detail)
        weight = _BETA * corr(low, lms) * quotient(sd(lms), sd(lms).mean(dim=1, keepdim=True))
        # lms over low mixes the scales of MS and PAN, as published
        local = 1 - (1 - corr(intensity, lms) * quotient(lms, low)).abs()
        return lms + weight * local * detail
