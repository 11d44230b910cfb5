"""SID, the spectral information divergence (Chang, IEEE Trans. Inf. Theory 2000), averaged over pixels.

A pixel's spectrum is made a distribution, p = x / sum(x) + e, q = y / sum(y) + e with e = 2.2e-16, and SID is the
symmetric relative entropy sum over bands of (p - q)(ln p - ln q). Natural logarithm, no unit, range [0, inf), 0 is
best. Scaling a pixel's spectrum changes nothing. Negative samples count 0. Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, on_pairs
from lemamba.metrics.tiles import add_valid, row_tiles

_SMALLEST = 2.0**-52  # keeps the logarithm of an empty band finite, as pysptools does


@on_pairs
@register_index("sid", heading="SID", direction=-1, digits=6, column=24, extra=True)
def sid(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean spectral information divergence.

    Args:
        sr: (B, C, H, W), any scale.
        gt: the same shape.
        mask: (B, 1, H, W), True where valid.

    Returns:
        (B,) float64. Pixels that are black in either image are left out, as in SAM; NaN where none is left. A band that
        is 0 in one image only costs up to 36 times its share. Differentiable.
    """
    return each_pair(_mean_divergence, sr, gt, mask)


def _mean_divergence(sr: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    """SID of one image pair (C, H, W), mask (H, W), tile by tile."""
    total, count = sr.new_zeros(2, dtype=torch.float64)
    for rows in row_tiles(sr):
        x, y = (image[:, rows].double().clamp_min(0) for image in (sr, gt))
        sum_x, sum_y = x.sum(dim=0), y.sum(dim=0)
        seen = (sum_x > 0) & (sum_y > 0)
        p, q = (i / torch.where(seen, s, 1.0) + _SMALLEST for i, s in ((x, sum_x), (y, sum_y)))
        divergence = ((p - q) * (p.log() - q.log())).sum(dim=0)
        sums, number = add_valid(divergence, seen if mask is None else seen & mask[rows])
        total, count = total + sums, count + number
    return total / count
