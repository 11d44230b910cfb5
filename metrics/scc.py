"""SCC, spatial correlation of edges (after Zhou, Civco, Silander, 1998), as the pansharpening toolbox computes it.

One pixel of border is cut, the Sobel magnitude is taken per band with zeros outside, and one cosine (not centred) is
formed over all pixels and bands. No unit, range [0, 1], 1 is best. Scaling an image changes nothing.
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import on_pairs, plane_chunks, safe_sqrt, windows_valid


def sobel_magnitude(x: Tensor) -> Tensor:
    """Gradient magnitude with zero padding, (..., H, W) -> (..., H, W)."""
    x = F.pad(x, (1, 1, 1, 1))
    smooth_rows = torch.add(x[..., :-2, :] + x[..., 2:, :], x[..., 1:-1, :], alpha=2)
    smooth_columns = torch.add(x[..., :-2] + x[..., 2:], x[..., 1:-1], alpha=2)
    gx = smooth_rows[..., 2:] - smooth_rows[..., :-2]
    gy = smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]
    return safe_sqrt(torch.addcmul(gx * gx, gy, gy))


@on_pairs
@register_index("scc", heading="SCC", direction=+1, column=3)
def scc(sr: Tensor, gt: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Cosine between the edge images.

    Args:
        sr: (B, C, H, W).
        gt: the same shape.
        mask: (B, 1, H, W), True where valid; only pixels whose 3x3 neighbourhood is valid count.

    Returns:
        (B,) float64; NaN where an image has no edges. Differentiable.
    """
    valid = None if mask is None else windows_valid(mask, 3)
    sums = []
    for x, y, v in zip(sr, gt, valid if valid is not None else [None] * len(sr), strict=True):
        sums.append(torch.stack([_products(x[c], y[c], v) for c in plane_chunks(*x.shape, x.device)]).sum(dim=0))
    cross, power_sr, power_gt = torch.stack(sums, dim=1)
    return cross / (power_sr * power_gt).sqrt()


def _products(x: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
    """Sums of ex*ey, ex^2, ey^2 over the edge images of some bands, (3,)."""
    ex, ey = sobel_magnitude(x[..., 1:-1, 1:-1]), sobel_magnitude(y[..., 1:-1, 1:-1])
    if valid is not None:
        ex, ey = ex * valid, ey * valid
    ex, ey = ex.flatten(), ey.flatten()
    return torch.stack((ex @ ey, ex @ ex, ey @ ey))
