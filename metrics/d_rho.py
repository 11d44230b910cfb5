"""D_rho, the spatial distortion of Scarpa and Ciotola (Remote Sensing 2022, 14, 1808), at full resolution.

1 - mean over bands and positions of the correlation coefficient of the fused band with PAN in a sliding r x r window, r
the resolution ratio. Valid area. No unit, range [0, 2], 0 is best.
A window flat in the band or in pan alone has correlation 0, one flat in both 1. The authors' tool takes deviations from
a running mean, pads with zeros and clips negative correlations to 0, so that its numbers differ (docs/metrics.md).
Legend: B images, C bands, H W size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lemamba.metrics.full_inputs import check_full, check_pan
from lemamba.metrics.index import register_index
from lemamba.metrics.inputs import each_pair, windows_valid
from lemamba.metrics.qave import slide
from lemamba.metrics.tiles import mean_of_windows
from lemamba.utils.errors import UserError


@register_index("d_rho", heading="D_rho", direction=-1, protocol="full", column=20, extra=True)
def d_rho_from(sr: Tensor, pan: Tensor, ratio: int, mask: Tensor | None) -> Tensor:
    """`d_rho` of checked images."""
    if ratio < 2:
        raise UserError(f"d_rho needs a ratio of at least 2, the side of its window, given {ratio}; correct --ratio")
    valid = None if mask is None else windows_valid(mask, ratio)

    def mean(x: Tensor, p: Tensor, v: Tensor | None) -> Tensor:
        return 1 - mean_of_windows(partial(local_correlation, side=ratio), ratio, x, p.expand_as(x), v)

    return each_pair(mean, sr, pan, valid)


def d_rho(sr: Tensor, pan: Tensor, *, ratio: int, mask: Tensor | None = None) -> Tensor:
    """Spatial distortion by local correlation with PAN.

    Args:
        sr: (B, C, H, W), sides multiples of the ratio.
        pan: (B, 1, H, W).
        ratio: resolution ratio, a whole number of at least 2: the side of the window.
        mask: (B, 1, H, W), True where valid; only windows without nodata count.

    Returns:
        (B,) float64. Differentiable.
    """
    sr, _, mask = check_full(sr, sr, ratio=ratio, published=False, mask=mask, block=None)
    return d_rho_from(sr, check_pan(pan, sr, mask), ratio, mask)


def local_correlation(x: Tensor, y: Tensor, side: int) -> Tensor:
    """Correlation coefficient in each box: (K, h, w) float64 twice -> (K, h - side + 1, w - side + 1)."""
    n = side * side
    x, y = (i - i.detach().mean(dim=(-2, -1), keepdim=True).round() for i in (x, y))  # spares digits, see `q_map`
    sx, sy = slide(x, side), slide(y, side)
    covariance = n * slide(x * y, side) - sx * sy
    power_x, flat_x = _power(x, sx, side)
    power_y, flat_y = _power(y, sy, side)
    either = flat_x | flat_y
    correlation = covariance / (torch.where(either, 1.0, power_x) * torch.where(either, 1.0, power_y)).sqrt()
    return torch.where(either, (flat_x & flat_y).to(x.dtype), correlation)


def _power(x: Tensor, sums: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Variance times n^2 in each box, and which boxes have one value only."""
    squares = side * side * slide(x * x, side)
    power = squares - sums * sums
    flat = power.detach() <= 1e-11 * squares.detach()
    if bool(flat.any()):
        flat = flat & (slide(x, side, torch.maximum) == slide(x, side, torch.minimum))
    return power.clamp_min(torch.finfo(x.dtype).tiny), flat
