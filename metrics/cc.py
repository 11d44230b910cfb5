"""CC, the correlation coefficient of Pearson per band, averaged over bands.

Centred, over all pixels of a band. No unit, range [-1, 1], 1 is best. Gain and offset of a band change nothing. Some
repositories call this quantity SCC.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, on_pairs
from lemamba.metrics.moments import band_mean, dot
from lemamba.metrics.tiles import row_tiles


@on_pairs
@register_index("cc", heading="CC", direction=+1, column=21, extra=True)
def cc(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over bands of the correlation coefficient.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64; NaN where a band is constant in either image, because it has no correlation. Differentiable.
    """
    return each_pair(_correlation, sr, gt, mask)


def _correlation(sr: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    """CC of one image pair (C, H, W), mask (H, W)."""
    valid = None if mask is None else mask[None, None]
    mean_sr, mean_gt = (band_mean(image[None], valid)[0, :, None] for image in (sr, gt))
    sums = sr.new_zeros(3, len(sr), dtype=torch.float64)
    for rows in row_tiles(sr):
        x, y = sr[:, rows].flatten(1).double() - mean_sr, gt[:, rows].flatten(1).double() - mean_gt
        if mask is not None:
            x, y = x * mask[rows].flatten(), y * mask[rows].flatten()
        sums = sums + torch.stack((dot(x, y), dot(x, x), dot(y, y)))
    cross, power_sr, power_gt = sums
    # The mean of equal numbers may be off by a rounding: so constant bands are detected by their values.
    constant = _constant(sr, mask) | _constant(gt, mask)
    return torch.where(constant, torch.nan, cross / (power_sr * power_gt).sqrt()).mean()


def _constant(image: Tensor, mask: Tensor | None) -> Tensor:
    """Which bands of (C, H, W) have one value only, (C,)."""
    low, high = image.detach(), image.detach()
    if mask is not None:
        low, high = torch.where(mask, low, torch.inf), torch.where(mask, high, -torch.inf)
    return low.amin(dim=(1, 2)) >= high.amax(dim=(1, 2))
