"""PSNR of the whole cube in decibels: one mean squared error over all bands.

10 log10(const^2 / MSE), as torchmetrics, scikit-image and sewar compute it. Never above the `psnr` of this package,
which is the mean of the bands' PSNRs; equal only where all bands have one error. Unit dB, larger is better, equal
images give Inf. Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_moments
from lemamba.metrics.moments import mean_squared_error


@on_moments
@register_index("psnr_cube", heading="PSNR (cube)", direction=+1, unit="dB", digits=2, column=22, extra=True)
def psnr_cube(sr: Tensor, gt: Tensor, *, const: float, mask: Tensor | None = None) -> Tensor:
    """PSNR from the error over all bands.

    Args:
        sr: (B, C, H, W), values in [0, const].
        gt: the same shape.
        const: peak value, e.g. 2047; 1 for data in [0, 1].
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64 in dB. Differentiable where the images differ.
    """
    return -10 * torch.log10(mean_squared_error(sr, gt, mask).mean(dim=1) / const**2)
