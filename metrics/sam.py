"""SAM, the spectral angle mapper, in degrees (Yuhas, Goetz, Boardman, 1992).

Per pixel acos(<x, y> / sqrt(<x, x> <y, y>)) over the bands, averaged over the pixels whose norm product is not zero.
Unit degrees, range [0, 180], 0 is best. Scaling a pixel's spectrum changes nothing.
Near 0 the arc cosine turns a rounding of 1e-16 into 1e-6 degrees: smaller differences are not meaningful.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, on_pairs, safe_sqrt
from lemamba.metrics.tiles import add_valid, tiles


def _products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over bands of x*x, y*y and x*y in float64, (C, h, w) twice -> (h, w) each, a band at a time."""
    sums = None
    for a, b in zip(x, y, strict=True):
        a, b = a.double(), b.double()
        if sums is None:
            sums = [a * a, b * b, a * b]
            continue
        for total, u, v in zip(sums, (a, b, a), (a, b, b), strict=True):
            total.addcmul_(u, v)
    xx, yy, xy = sums if sums is not None else x.new_zeros(3, *x.shape[1:], dtype=torch.float64)
    return xx, yy, xy


def sam_map(sr: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """Angle per pixel in degrees (float64) and where it is defined, both (h, w), of two tiles (C, h, w)."""
    xx, yy, xy = _products(sr, gt)
    norm = safe_sqrt(xx * yy)
    defined = norm != 0
    cosine = xy / torch.where(defined, norm, 1.0)
    # Rounding can carry the cosine past 1; there the angle is 0 (or 180) and its gradient is set to 0, not Inf.
    if not cosine.requires_grad:
        return torch.rad2deg_(cosine.clamp_(-1, 1).acos_()), defined
    inside = cosine.abs() < 1
    beyond = torch.where(cosine > 0, torch.zeros_like(cosine), math.pi)  # two bare numbers would be float32
    angle = torch.where(inside, torch.where(inside, cosine, 0.0).acos(), beyond)
    return torch.rad2deg(angle), defined


@on_pairs
@register_index("sam", heading="SAM", direction=-1, unit="degrees", column=1)
def sam(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean spectral angle.

    Args:
        sr: (B, C, H, W), any range and dtype.
        gt: the same shape.
        mask: (B, 1, H, W), True where valid; other pixels do not count.

    Returns:
        (B,) float64 in degrees; NaN where every pixel is black. Differentiable.
    """
    return each_pair(_mean_angle, sr, gt, mask)


def _mean_angle(sr: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    """Mean angle of one image pair (C, H, W), mask (H, W), tile by tile."""
    total, count = sr.new_zeros(2, dtype=torch.float64)
    for rows, columns in tiles(sr):
        angle, defined = sam_map(sr[:, rows, columns], gt[:, rows, columns])
        angles, seen = add_valid(angle, defined if mask is None else defined & mask[rows, columns])
        total, count = total + angles, count + seen
    return total / count
