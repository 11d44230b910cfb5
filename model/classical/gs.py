"""GS: Gram-Schmidt spectral sharpening, intensity = mean of the bands (mode 1).

Sources: C. A. Laben, B. V. Brower, US patent 6 011 875, 2000; in the form of B. Aiazzi, S. Baronti, M. Selva,
"Improving component substitution pansharpening through multivariate regression of MS+Pan data", IEEE TGRS 45(10), 2007.
Shapes: lms and sr (B, C, H, W), pan (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lemamba.model.classical.base import Classical, Windows, column
from lemamba.model.classical.statistics import Moments, gather, quotient
from lemamba.model.classical.unseen import Smooth
from lemamba.operators.window import Window
from lemamba.utils.registry import register_model


@dataclass(frozen=True)
class Substitution:
    """What component substitution needs: ``sr_b = lms_b + gain_b (pan_gain (pan - pan_mean) - (I - mean I))``.

    Attributes:
        weights: (C,) of the bands in the intensity ``I = sum_b weights_b lms_b``.
        intensity_mean: mean of I.
        pan_mean, pan_gain: of the matched PAN.
        gain: (C,) injection gains ``cov(I, M_b) / var(I)``.
        unseen: subtracted from pan, see `lemamba.model.classical.unseen`; None = nothing.
    """

    weights: Tensor
    intensity_mean: float
    pan_mean: float
    pan_gain: float
    gain: Tensor
    unseen: Smooth | None = None


def substitution(moments: Moments, weights: Tensor, matched: bool) -> Substitution:
    """Derive the substitution from the moments of [lms, pan] and the weights of the intensity.

    Args:
        moments: of C bands of lms, then pan.
        weights: (C,).
        matched: give pan the deviation of the intensity (GS); GSA's intensity has PAN's scale already.
    """
    bands = len(weights)
    covariance = moments.covariance[:bands, :bands] @ weights
    variance = weights @ covariance
    pan_gain = quotient(variance.clamp_min(0).sqrt(), moments.sd(bands)) if matched else torch.tensor(1.0)
    mean = float(weights @ moments.mean[:bands])
    return Substitution(weights, mean, float(moments.mean[bands]), float(pan_gain), quotient(covariance, variance))


def substitute(window: Window, found: Substitution) -> Tensor:
    """Inject PAN minus intensity into every band of a window, without its margins."""
    rest = window.blend(torch.eye(len(found.gain), dtype=torch.float64) - torch.outer(found.gain, found.weights))
    pan = window.crop(window.pan)
    if found.unseen is not None:
        pan = pan - found.unseen.at(window)
    detail = pan * found.pan_gain + (found.intensity_mean - found.pan_mean * found.pan_gain)
    return torch.addcmul(rest, column(found.gain, rest), detail)


@register_model(
    "GS",
    tasks=("pansharpening",),
    ratios=(2, 3, 4, 5, 6, 7, 8, 16),
    family="classical",
    tileable=False,
    paper="Laben and Brower, US patent 6 011 875, 2000",
)
class GS(Classical):
    """Gram-Schmidt: the PAN, matched to the intensity, replaces it."""

    light = True

    def fit(self, windows: Windows) -> Substitution:
        """Learn gains from the moments of lms and pan."""
        (moments,) = gather(lambda w: (w.moments(),), windows())
        bands = len(self.gains)
        return substitution(moments, torch.full((bands,), 1 / bands, dtype=torch.float64), matched=True)

    def inject(self, window: Window, fitted: Substitution) -> Tensor:
        """Fuse a window."""
        return substitute(window, fitted)
