"""PRACS: partial replacement adaptive component substitution.

Paper: J. Choi, K. Yu, Y. Kim, "A new adaptive component-substitution-based satellite image fusion by using partial
replacement", IEEE TGRS 49(1), 2011; as the pansharpening toolbox computes it.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.classical.base import DARK, Classical, Windows, column
from lemamba.model.classical.filters import resize_low_pass, resize_margin
from lemamba.model.classical.statistics import correlation, gather, quotient, solve
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model

_BETA = 0.95  # the paper's normalisation of the high-frequency injection


@dataclass(frozen=True)
class Fitted:
    """What PRACS learns; a matched band is ``clamp_min(band_gain (M_b - band_mean) + pan_mean, 0)``.

    Attributes:
        band_gain, band_mean: (C,).
        pan_mean: mean of PAN.
        share: (C,) of PAN in the high-resolution component of each band.
        low: (C, C + 1) coefficients of the component's low-pass: intercept, then matched bands.
        detail_mean: (C,).
        weight: (C,) of the injection.
        likeness: (C,) correlation of intensity and band.
    """

    band_gain: Tensor
    band_mean: Tensor
    pan_mean: float
    share: Tensor
    low: Tensor
    detail_mean: Tensor
    weight: Tensor
    likeness: Tensor


@register_model(
    "PRACS",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Choi et al., TGRS 49(1), 2011",
)
class PRACS(Classical):
    """Each band gets its own high-resolution component, a mixture of PAN and band by their correlation."""

    @property
    def margin(self) -> int:
        """PAN pixels around a window that its result depends on, in whole MS pixels."""
        return resize_margin(self.ratio)

    def fit(self, windows: Windows) -> Fitted:
        """Match the bands to PAN in one pass, learn everything else in a second one.

        The low-pass of a component is linear in those of PAN and the matched band, so moments of [matched, low-pass
        PAN, low-pass matched, lms, pan] hold all regressions and correlations.
        """
        C = len(self.gains)
        (first,) = gather(lambda w: (w.fine(w.lms, w.pan),), windows())
        band_gain, band_mean, pan_mean = quotient(first.sd(C), first.sd(slice(C))), first.mean[:C], float(first.mean[C])

        def features(w: Window) -> tuple[Tensor]:
            matched = _matched(w.lms, band_gain, band_mean, pan_mean)
            lows = resize_low_pass(torch.cat([w.pan, matched], dim=1), self.ratio)
            return (w.fine(matched, lows, w.lms, w.pan),)

        (m,) = gather(features, windows())
        cov, mean, sd = m.covariance, m.mean, m.sd(slice(None))
        matched, low_pan, low_matched, lms = slice(C), C, slice(C + 1, 2 * C + 1), slice(2 * C + 1, 3 * C + 1)
        weights = solve(cov[matched, matched], cov[matched, low_pan : low_pan + 1])[:, 0]  # of the intensity
        intensity = (weights @ cov[matched, matched] @ weights).clamp_min(0).sqrt()
        share = correlation(cov[matched, matched] @ weights, intensity, sd[matched])
        # regression of the component's low-pass on the matched bands, column b for band b
        right = share * cov[matched, low_pan][:, None] + (1 - share) * cov[matched, low_matched]
        slopes = solve(cov[matched, matched], right).T
        target = share * mean[low_pan] + (1 - share) * mean[low_matched]
        intercept = target - slopes @ mean[matched]
        low_sd = torch.einsum("bi,ij,bj->b", slopes, cov[matched, matched], slopes).clamp_min(0).sqrt()
        low_lms = torch.einsum("bi,ib->b", slopes, cov[matched, lms])
        weight = _BETA * correlation(low_lms, low_sd, sd[lms]) * quotient(sd[lms], sd[lms].mean())
        detail_mean = share * mean[-1] + (1 - share) * mean[matched] - (intercept + slopes @ mean[matched])
        likeness = correlation(weights @ cov[matched, lms], intensity, sd[lms])
        low = torch.cat([intercept[:, None], slopes], dim=1)
        return Fitted(band_gain, band_mean, pan_mean, share, low, detail_mean, weight, likeness)

    def inject(self, window: Window, fitted: Fitted) -> Tensor:
        """Fuse a window."""
        lms = window.lms
        matched = _matched(lms, fitted.band_gain, fitted.band_mean, fitted.pan_mean)
        share = column(fitted.share, lms)
        component = share * window.pan + (1 - share) * matched
        slopes = fitted.low[:, 1:].to(lms)
        low = torch.einsum("bi,ihw->bhw", slopes, matched[0])[None] + column(fitted.low[:, 0], lms)
        detail = component - low - column(fitted.detail_mean, lms)
        # lms over low mixes the scales of MS and PAN: so it is published. Where low goes through 0, it says nothing.
        local = 1 - (1 - column(fitted.likeness, lms) * quotient(lms, low)).abs()
        local = torch.where(low < DARK * fitted.pan_mean, local.clamp(-1, 1), local)
        return lms + column(fitted.weight, lms) * local * detail


def _matched(lms: Tensor, gain: Tensor, mean: Tensor, pan_mean: float) -> Tensor:
    return torch.clamp_min((lms - column(mean, lms)) * column(gain, lms) + pan_mean, 0)
