"""PSNR, peak signal to noise ratio in decibels, averaged over bands.

10 log10(1 / MSE_b) of the image divided by `const`. Unit dB, larger is better, equal bands give Inf.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments
from lemamba.metrics.moments import mean_squared_error


@on_moments
@register_index("psnr", heading="PSNR", direction=+1, unit="dB", digits=2, column=6)
def psnr(sr: Tensor, gt: Tensor, *, const: float, mask: Tensor | None = None) -> Tensor:
    """Mean over bands of the PSNR of a band.

    Args:
        sr: (B, C, H, W), values in [0, const].
        gt: the same shape.
        const: peak value, e.g. 2047; 1 for data in [0, 1].
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64 in dB; Inf as soon as one band is equal. Differentiable elsewhere.
    """
    return (-10 * torch.log10(mean_squared_error(sr, gt, mask) / const**2)).mean(dim=1)
