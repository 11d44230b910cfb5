"""SCC, spatial correlation of edges (after Zhou, Civco, Silander, 1998), as the pansharpening toolbox computes it.

One pixel of border is cut, the Sobel magnitude is taken per band with zeros outside, and one cosine (not centred) is
formed over all pixels and bands. No unit, range [0, 1], 1 is best. Scaling an image changes nothing.
Legend: B images, C bands, H W size, h w size of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, on_pairs, safe_sqrt, windows_valid
from lemamba.metrics.tiles import Tile, plane_groups, tiles


def sobel_magnitude(x: Tensor) -> Tensor:
    """Gradient magnitude where its 3x3 window fits, (..., h, w) -> (..., h - 2, w - 2)."""
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
    return each_pair(_cosine, sr, gt, None if mask is None else windows_valid(mask, 3))


def _cosine(sr: Tensor, gt: Tensor, valid: Tensor | None) -> Tensor:
    """SCC of one image pair (C, H, W); `valid` (H - 2, W - 2)."""
    sums = sr.new_zeros(3, dtype=torch.float64)
    for tile in tiles(sr, 3):
        v = None if valid is None else valid[_inner(tile)]
        for planes in plane_groups(sr[:, tile[0], tile[1]]):
            sums = sums + _products(_edges(sr[planes], tile), _edges(gt[planes], tile), v)
    cross, power_sr, power_gt = sums
    return cross / (power_sr * power_gt).sqrt()


def _inner(tile: Tile) -> Tile:
    """Rows and columns of the windows that fit a tile, counted in the image without its border of one pixel."""
    rows, columns = (slice(part.start, part.stop - 2) for part in tile)
    return rows, columns


def _edges(image: Tensor, tile: Tile) -> Tensor:
    """Edge magnitudes inside a tile; the border pixel of the image counts as 0."""
    H, W = image.shape[-2:]
    x = image[..., tile[0], tile[1]].double()
    top, left = int(tile[0].start == 0), int(tile[1].start == 0)
    bottom, right = int(tile[0].stop == H), int(tile[1].stop == W)
    if top or left or bottom or right:
        h, w = x.shape[-2:]
        x = F.pad(x[..., top : h - bottom, left : w - right], (left, right, top, bottom))
    return sobel_magnitude(x)


def _products(ex: Tensor, ey: Tensor, valid: Tensor | None) -> Tensor:
    """Sums of ex*ey, ex^2, ey^2 over the edge images of some bands, (3,)."""
    if valid is not None:
        ex, ey = ex * valid, ey * valid
    ex, ey = ex.flatten(), ey.flatten()
    return torch.stack((ex @ ey, ex @ ex, ey @ ey))
